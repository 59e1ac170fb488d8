"""Names of the previous version: they work for one more version, with one warning each that states the new name."""

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from inspect import signature
from itertools import pairwise
from pathlib import Path
from pydoc import locate
from typing import Any

# Packages that had these global names, and are now folders of the package `darkroom`.
PACKAGES = ("lightning_modules", "datamodules", "callbacks")

# Class name -> class name.
CLASSES: dict[str, str] = {
    "CaptionedImages": "CaptionDataModule",
    "Denoiser": "DenoisingUNet",
    "PeriodicPictures": "FigureCallback",
    "PictureCallback": "FigureCallback",
    "PromptPictures": "PromptFigures",
    "StagesLogger": "CascadeLogger",
    "Words": "LearnedTextEncoder",
}

# Section of a config -> argument -> argument; a dot: now in a group of options.
_GROUPS = {
    "optim": ("optimizer", "lr_scheduler", "channels_last"),
    "sampling": (
        "sampler",
        "steps",
        "spacing",
        "eta",
        "order",
        "variance",
        "guidance",
        "guidance_interval",
        "threshold",
    ),
    "inference": ("score_threshold", "nms_threshold", "max_detections"),
    "rpn": ("anchor_sizes", "proposals_before_nms"),
    "objective": ("prediction", "loss_weight", "learned_variance", "vlb_weight", "self_conditioning"),
}
KEYS: dict[str, dict[str, str]] = {
    "model": {
        **{name: f"{group}.{name}" for group, names in _GROUPS.items() for name in names},
        "percentile": "sampling.percentile",
        "compile_network": "optim.compile",
        "ema_decay": "ema.decay",
        "generator_optimizer": "optim.generator_optimizer",
        "discriminator_optimizer": "optim.discriminator_optimizer",
        "gradient_clip_val": "optim.gradient_clip_val",
        "accumulate_grad_batches": "optim.accumulate_grad_batches",
        "rpn_samples": "rpn.samples",
        "rpn_nms_threshold": "rpn.nms_threshold",
        "svm": "svm.enabled",
        "cost": "svm.cost",
        "max_negatives": "svm.max_negatives",
        "box_regression": "box_regression.enabled",
        "penalty": "box_regression.penalty",
        "max_pairs": "box_regression.max_pairs",
    },
    "data": {"picture_column": "image_column", "predict_dir": "predict"},
}
# Option of LightningCLI -> argument of the model that it stood for.
OPTIONS = {"optimizer": "model.optim.optimizer", "lr_scheduler": "model.optim.lr_scheduler"}
# Class name -> argument -> argument: of callbacks, and if other classes still have an argument of the old name.
_TWO_STAGES = {"aspect_ratios": "rpn.aspect_ratios", "proposals": "rpn.proposals"}
KEYS_OF_CLASS: dict[str, dict[str, str]] = {
    "FasterRCNN": _TWO_STAGES,
    "MaskRCNN": _TWO_STAGES,
    "UNet": {"pretrained": "init_from"},
    "TimestepLossLogger": {"num_pictures": "num_images"},
}
# ImagenCascade has lists of these, one value per stage, or None: today's arguments, not the flat ones of a single model.
_PER_STAGE = ("guidance", "steps")


def rename_class(path: str) -> str:
    """Return the current import path of a class for a path or bare name of the previous version; others unchanged."""
    module, _, name = path.rpartition(".")
    today = CLASSES.get(name, name)
    if not module:
        return _warn(path, today)
    package = module.partition(".")[0]
    if package in PACKAGES and today in class_modules() and not _is_of_user(module):
        return _warn(path, f"{class_modules()[today]}.{today}")
    return _warn(path, f"{module}.{today}") if module.startswith("darkroom.") else path


def rename_keys(section: str, arguments: dict[str, Any], class_path: str = "") -> dict[str, Any]:
    """Return the arguments of a section ("model", "data") with their current names.

    Args:
        section: section of the config.
        arguments: values by the names of the previous version, the current ones, or both; current names win.
        class_path: class that takes them, if known.
    """
    return _rename(arguments, _table_of(section, class_path), section)


def _table_of(section: str, class_path: str) -> dict[str, str]:
    """Return the renamed arguments of a class; a user's class keeps those that it declares under the old name."""
    name = class_path.rpartition(".")[2]
    table = KEYS[section] | KEYS_OF_CLASS.get(name, {})
    if not name or name in class_modules():
        return table
    kind = locate(class_path) if "." in class_path else None
    own = signature(kind).parameters if isinstance(kind, type) else table
    return {old: new for old, new in table.items() if old not in own}


def _rename(arguments: dict[str, Any], table: dict[str, str], section: str) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for old, value in arguments.items():
        new = table.get(old)
        # Of a group with the name of an old switch: its options, or None for its defaults.
        group_of_today = isinstance(value, dict | None) and new is not None and new.startswith(f"{old}.")
        per_stage = old in _PER_STAGE and (value is None or isinstance(value, list | tuple))
        if new is None or group_of_today or per_stage:
            renamed[old] = _merge(renamed.get(old), value)
            continue
        _warn(f"{section}.{old}", f"{section}.{new}")
        group, _, name = new.partition(".")
        if not name:
            renamed.setdefault(group, value)
        elif value is None and not _is_optional(group, name):
            renamed.setdefault(group, None)
        else:
            renamed[group] = _merge({name: value}, renamed.get(group) or {})
    return renamed


def update_config(config: Any) -> Any:
    """Return a config, or any section of one, with current class names and keys."""
    if isinstance(config, list):
        return [update_config(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    updated = {key: update_config(value) for key, value in config.items()}
    if isinstance(updated.get("class_path"), str):
        updated["class_path"] = rename_class(updated["class_path"])
        name, arguments = updated["class_path"].rpartition(".")[2], updated.get("init_args")
        if name in KEYS_OF_CLASS and isinstance(arguments, dict):
            updated["init_args"] = _rename(arguments, KEYS_OF_CLASS[name], name)
    if updated.keys() & {"model", "data", "trainer"}:  # a whole config
        _move_options(updated)
    for section in KEYS.keys() & updated.keys():
        content = updated[section]
        if isinstance(content, str):
            updated[section] = rename_class(content)
        elif isinstance(content, dict):
            content = rename_keys(section, content)
            if isinstance(content.get("init_args"), dict):
                class_path = content.get("class_path")
                class_path = class_path if isinstance(class_path, str) else ""
                content["init_args"] = rename_keys(section, content["init_args"], class_path)
            updated[section] = content
    return updated


def _move_options(config: dict[str, Any]) -> None:
    """Move the options that LightningCLI once added to a whole config to the model; drop those that are null."""
    config.pop("weights_only", None)  # had no effect
    for old, new in OPTIONS.items():
        value = config.pop(old, None)
        if value is not None:
            _warn(old, new)
            model = config.get("model") or {}
            model = {"class_path": model} if isinstance(model, str) else model
            name = new.rpartition(".")[2]
            config["model"] = _deep_merge(model, {"init_args": {"optim": {name: value}}})


def _deep_merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; the second wins."""
    both = {
        name: _deep_merge(first[name], second[name])
        for name in first.keys() & second.keys()
        if isinstance(first[name], dict)
    }
    return {**first, **second, **both}


def update_arguments(argv: Sequence[str], class_paths: Mapping[str, str] | None = None) -> list[str]:
    """Return a command line with current class names and keys.

    Args:
        argv: words of the command line.
        class_paths: class of each section ("model", "data") that configs name; the command line takes precedence.
    """
    named = dict(class_paths or {})
    words = [part for word in argv for part in word.split("=", 1)]
    named |= {word[2:]: value for word, value in pairwise(words) if word in {f"--{section}" for section in KEYS}}
    tables = {section: _table_of(section, rename_class(named.get(section, ""))) for section in KEYS}
    neighbours = zip(["", *argv], argv, [*argv[1:], ""], strict=False)
    return [_update_argument(word, before, after, tables) for before, word, after in neighbours]


def with_todays_arguments(checkpoint: Any, class_path: str = "") -> Any:
    """Return the content of a checkpoint with current class names and keys in its hyper-parameters.

    Args:
        checkpoint: content of the checkpoint.
        class_path: class that loads it, for checkpoints without a class name.
    """
    arguments = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(arguments, dict):
        return checkpoint
    own_path = arguments.get("_class_path")
    if not isinstance(own_path, str):  # a damaged file may have any content; loading raises the error
        own_path = ""
    arguments = rename_keys("model", update_config(arguments), own_path or class_path)
    if own_path:
        arguments["_class_path"] = rename_class(own_path)
    return checkpoint | {"hyper_parameters": arguments}


@cache
def class_modules() -> dict[str, str]:
    """Return the module of every class of Darkroom by class name, read from the sources without importing them."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        root = folder_of(package)
        for path in sorted(root.rglob("*.py")):
            module = ".".join(["darkroom", package, *path.relative_to(root).with_suffix("").parts])
            # Every command with a config needs them: parsing the sources would take 0.5 s of its start.
            for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
                found.setdefault(name, module.removesuffix(".__init__"))
    return found


def folder_of(package: str) -> Path:
    """Return the folder of one of Darkroom's packages, without importing it."""
    spec = find_spec(f"darkroom.{package}")
    assert spec is not None, package
    assert spec.submodule_search_locations, package
    return Path(spec.submodule_search_locations[0]).resolve()


def own_folder(package: str) -> Path | None:
    """Return the folder of this name in the working directory, unless it is Darkroom's own."""
    folder = Path.cwd() / package
    return folder if folder.is_dir() and folder.resolve() != folder_of(package) else None


def _is_of_user(module: str) -> bool:
    package, _, rest = module.partition(".")
    folder = own_folder(package)
    if folder is None:
        return False
    path = folder / rest.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def _update_argument(word: str, before: str, following: str, tables: Mapping[str, dict[str, str]]) -> str:
    if not word.startswith("--"):
        return rename_class(word) if before.startswith(("--model", "--data", "--trainer")) else word
    name, equals, value = word.partition("=")
    section, _, rest = name.removeprefix("--").partition(".")
    if section in OPTIONS:
        today = _warn(f"--{section}", f"--{OPTIONS[section]}")
        return f"{name.replace(f'--{section}', today, 1)}{equals}{value}"
    if section in KEYS:
        nested = rest.startswith("init_args.")
        old, dot, tail = rest.removeprefix("init_args.").partition(".")
        new = tables[section].get(old)
        text = value if equals else following
        per_stage = old in _PER_STAGE and (text == "null" or text.startswith("["))
        group_of_today = (dot or text == "null") and new is not None and new.startswith(f"{old}.")
        if new is not None and not per_stage and not group_of_today:
            _warn(f"{section}.{old}", f"{section}.{new}")
            group, _, option = new.partition(".")
            if text == "null" and not _is_optional(group, option):
                new = group
            name = f"--{section}.{'init_args.' * nested}{new}{dot}{tail}"
    return f"{name}{equals}{rename_class(value) if equals else ''}"


def _merge(first: Any, second: Any) -> Any:
    """Merge two values of one key: groups of options by their names, else the second."""
    return {**first, **second} if isinstance(first, dict) and isinstance(second, dict) else second


def _is_optional(group: str, name: str) -> bool:
    """Return True if None is a value of the option itself; elsewhere None switched off the whole group."""
    return (group, name) != ("ema", "decay")


_warned: set[str] = set()


def _warn(old: str, new: str) -> str:
    if old != new and old not in _warned:
        _warned.add(old)
        warnings.warn(f"{old} is now {new}; the old name works for one more version", FutureWarning, stacklevel=3)
    return new
