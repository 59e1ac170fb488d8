"""Fill open arguments of a model's config from the data, and check the others against the data."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules.utils.arguments import declared_names
from darkroom.lightning_modules.utils.safe_load import Damaged, read_safely
from darkroom.protocols import AttributeData, Captioned, ConfigTraits


def _share_with_network(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return all arguments of a model and of its objective, such as ``learned_variance``, for its network."""
    return {"network": {**arguments, **(arguments.get("objective") or {})}}


@dataclass(frozen=True)
class _Traits:
    linked_arguments: tuple[str, ...] = ()
    initial_weight_arguments: tuple[str, ...] = ()
    free_arguments: tuple[str, ...] = ()
    is_trained: bool = False
    is_conditional: bool = True
    monitor: tuple[str, str] = ("val/loss", "min")
    shared_arguments: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]] = _share_with_network


def config_traits(class_path: str) -> ConfigTraits:
    """Return the traits that a class declares for the command line; a user's class may declare none."""
    kind = locate(class_path)
    traits = _Traits()
    found = {trait.name: getattr(kind, trait.name, vars(traits)[trait.name]) for trait in fields(traits)}
    found |= {name: declared_names(kind, name) for name in ("free_arguments", "initial_weight_arguments")}
    return replace(traits, **found)


def initial_weights_of(model: Namespace) -> Iterator[tuple[Namespace, str]]:
    """Yield the arguments that name initial weights, of a model and of the parts it is built of, each with its owner's."""
    arguments = model.get("init_args") or Namespace()
    for name in config_traits(model.class_path).initial_weight_arguments:
        if name in arguments:
            yield arguments, name
    for part in list(vars(arguments).values()):
        if isinstance(part, Namespace) and isinstance(part.get("class_path"), str):
            yield from initial_weights_of(part)


def link_model(data: VisionDataModule, model: Namespace, checkpoint: str | Path | None = None) -> None:
    """Fill the arguments of a model that its config leaves open.

    Data without images determine no arguments; those saved in the checkpoint replace them.

    Raises:
        UsageError: an argument contradicts the data.
    """
    arguments = model.get("init_args") or Namespace()
    saved = _saved_arguments(checkpoint)
    known = _known_arguments(data)
    if data.image_shape is None and checkpoint is not None:
        known = {name: saved.get(name) for name in known if arguments.get(name) is None}
    if not arguments.get("conditional", config_traits(model.class_path).is_conditional):
        known.pop("num_classes", None)  # an unconditional model takes data with any number of classes
    if not arguments.get("supervision"):
        known.pop("attribute_sizes")  # nothing is built of it
    elif known["attribute_sizes"] is None:
        known["attribute_sizes"] = saved.get("attribute_sizes")  # tests on data without attributes
    for name, value in known.items():
        if name not in arguments or value is None:
            continue
        if arguments[name] is None:
            arguments[name] = value
        elif arguments[name] != value:
            raise UsageError(
                f"model.{name} is {arguments[name]}, but {type(data).__name__} has {value}; set model.{name} to {value}"
            )
    for name, shared in config_traits(model.class_path).shared_arguments(arguments.as_dict()).items():
        _link_part(arguments.get(name), shared)
    _link_vocabulary(arguments.get("text"), data, saved.get("text"))


def use_saved_classes(data: VisionDataModule, checkpoint: str | Path) -> None:
    """Take the classes from a checkpoint if the training data, which define them, are not on this machine.

    Raises:
        DataError: the data are missing, and the checkpoint has no classes either.
    """
    try:
        _ = data.class_names
    except AttributeError:  # the data have no classes
        return
    except DataError as error:
        saved = _read(checkpoint)
        if not saved.get("class_names"):
            raise
        data.restore_classes(saved["class_names"], saved.get("category_ids"))
        rank_zero_info(f"the classes are those of ckpt_path {checkpoint}, because {error}")


def _known_arguments(data: VisionDataModule) -> dict[str, Any]:
    """Return the model arguments that follow from the data."""
    channels = None if data.image_shape is None else data.image_shape[0]
    sizes = list(data.attribute_sizes) if isinstance(data, AttributeData) else None
    return {
        "num_classes": data.num_classes,
        "image_shape": data.image_shape,
        "in_channels": channels,
        "attribute_sizes": sizes,
    }


def _saved_arguments(checkpoint: str | Path | None) -> dict[str, Any]:
    """Read the model's arguments from a checkpoint; ``check_checkpoint`` reports one that cannot be read."""
    arguments = {} if checkpoint is None else _read(checkpoint).get("hyper_parameters")
    return arguments if isinstance(arguments, dict) else {}


def _read(checkpoint: str | Path) -> dict[str, Any]:
    try:
        content = read_safely("ckpt_path", Path(checkpoint), mmap=True)
    except Damaged:
        return {}
    return content if isinstance(content, dict) else {}


def _link_vocabulary(text: Any, data: VisionDataModule, saved: Any) -> None:
    """Fill the words of a learned text encoder: those of the checkpoint in their order, or else those of the data."""
    if not isinstance(text, Namespace) or "words" not in config_traits(text.class_path).linked_arguments:
        return
    arguments = text.get("init_args") or Namespace()
    learned = ((saved or {}).get("init_args") or {}).get("words")
    if learned and arguments.get("words") not in (None, learned):
        raise UsageError(
            "model.text.words must be those of the checkpoint, in their order; leave them out to use these"
        )
    words = learned or (data.words if isinstance(data, Captioned) else None)
    if arguments.get("words") is None and not words:
        raise UsageError(
            f"{type(data).__name__} has no captions, but model.text takes its words from captions; use ShapesCaptions, "
            "CaptionFolder, CocoCaptions or ShardedCaptions"
        )
    _link_part(text, {"words": words})


def _link_part(part: Any, known: Mapping[str, Any]) -> None:
    """Fill the ``linked_arguments`` of a component of a model that are None in its config."""
    if not isinstance(part, Namespace) or "class_path" not in part:
        return
    arguments = part.get("init_args") or Namespace()
    for name in config_traits(part.class_path).linked_arguments:
        if arguments.get(name) is None and known.get(name) is not None:
            arguments[name] = known[name]
