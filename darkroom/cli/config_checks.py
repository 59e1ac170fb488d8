"""What LightningCLI would do silently and wrongly is looked at here first, and refused with a word on what is right."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.safe_load import Damaged, read_safely, require_whole


def config_files(config: Namespace) -> list[Path]:
    """The files given with --config, in order."""
    return [Path(str(path)) for path in config.get("config") or []]


def readable_config(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"config {path} does not exist; `darkroom list` shows the ones that come with it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"config {path} holds no settings; it should have keys such as model, data, trainer")
    for group in ("trainer", "checkpoint", "last_checkpoint"):  # which the parser would take as no settings, or fail at
        value = content.get(group)
        if not isinstance(value, dict | None) and not (isinstance(value, str) and value):
            raise UsageError(f"config {path}: {group} is {value!r}; it should have settings below it, NAME: VALUE")


# A password before an address, a key in its query, a header that says who asks, and keys by their looks; not "$NAME",
# which a shell fills in.
_SECRET = re.compile(
    r"://[^/\s@]*:(?!\$)[^/\s@]+@"
    r"|://\S*[?&]([\w.-]*(token|secret|passw|signature|credential|api_?key|access_?key)[\w-]*|sig|key|auth)=(?!\$)[^&\s]"
    r"|authorization:\s*\w+\s+(?!\$)\S"
    r"|\b(hf_\w{30,}|gh[pousr]_\w{30,}|AKIA[0-9A-Z]{16})\b",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SECRET_KEY = re.compile(r"(api_?key|access_?key|password|passwd|secret|token)$", re.IGNORECASE)


def refuse_secrets(config: Namespace) -> None:
    """Refuses values that hold a password or a key: a config is written into the run's folder, checkpoints and W&B."""
    known = [value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= 16]
    for key, text in _texts(config.as_dict()):
        named = _SECRET_KEY.search(key) and text and not text.startswith("$")
        if named or _SECRET.search(text) or any(secret in text for secret in known):
            raise UsageError(
                f"{key} holds a password, a key or a token, which would be written down with the config. Keep it in the "
                "environment or in ~/.netrc: W&B finds WANDB_API_KEY there, Hugging Face HF_TOKEN, the cloud's own tools "
                'their keys; a command after pipe: can name it, as in curl --netrc, or "$TOKEN"'
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a config, and the key where it stands."""
    if isinstance(value, dict):
        for name, entry in value.items():
            inner = key if name in ("class_path", "init_args") else f"{key}.{name}"
            yield from _texts(entry, inner.lstrip("."))
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            yield from _texts(entry, f"{key}[{number}]")
    elif isinstance(value, str | Path):
        yield key, str(value)


def experiment_name(config: Namespace) -> str:
    """The names of the configs that say what is trained, or of model and data."""
    names = [path.stem for path in config_files(config) if path.parent.name not in ("trainer", "logger")]
    classes = [config[key].class_path.rsplit(".", 1)[-1] for key in ("model", "data")]
    return "-".join(names or classes)


def listed(callbacks: Any) -> list[Any]:
    """One callback, several or none, as a list."""
    return callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]


def _class_names(callbacks: Any) -> set[str]:
    paths = [entry if isinstance(entry, str) else (entry or {}).get("class_path", "") for entry in listed(callbacks)]
    return {path.rsplit(".", 1)[-1] for path in paths if path}


def refuse_replaced_callbacks(config: Namespace) -> None:
    """A later ``callbacks`` replaces an earlier list; that is refused unless done on purpose, with null."""
    expected: dict[str, Path] = {}
    for path in config_files(config):
        trainer = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("trainer")
        trainer = trainer if isinstance(trainer, dict) else {}
        if "callbacks" in trainer and trainer["callbacks"] is None:
            expected = {}
        given = [trainer[key] for key in ("callbacks", "callbacks+") if trainer.get(key)]
        expected |= {name: path for entry in given for name in _class_names(entry)}
    if config.trainer.callbacks is None:
        return
    lost = expected.keys() - {cb.class_path.rsplit(".", 1)[-1] for cb in listed(config.trainer.callbacks)}
    if lost:
        names, path = ", ".join(sorted(lost)), expected[min(lost)]
        raise UsageError(
            f"trainer.callbacks replaces {names} of {path}; append with `callbacks+:` (on the command line "
            "--trainer.callbacks+=NAME), or set `callbacks: null` in between to drop them"
        )


def refuse_stale_last(config: Namespace) -> None:
    """``save_last`` of a checkpoint that monitors a score is renewed only when the score is among the best."""
    groups = [cb.init_args for cb in listed(config.trainer.callbacks) if cb.class_path.endswith("ModelCheckpoint")]
    stale = any(group.get("save_last") and group.get("monitor") for group in [config.last_checkpoint, *groups])
    if stale or config.checkpoint.get("save_last"):  # that one always monitors something
        raise UsageError(
            "save_last with a monitor goes stale while the score gets worse; last.ckpt is kept by last_checkpoint already: "
            "remove save_last"
        )


def require_checkpoint(path: str | Path | None, given: str, experiment: Path) -> None:
    if path is None and not experiment.is_dir():
        raise UsageError(f"ckpt_path {given}: there is no {experiment}; --experiment names one of {experiment.parent}")
    if path is None:
        raise UsageError(
            f"ckpt_path {given}: the newest run in {experiment} has no checkpoints/{given}.ckpt; leave it out to start "
            "anew, or give the file of an older run"
        )
    if not Path(path).is_file():
        raise UsageError(
            f"ckpt_path {given} does not exist; give a file, or last or best of the newest run in {experiment}"
        )


def prompted_model_is_trained(data: Any, model: Namespace, command: str, ckpt_path: Path | str | None) -> None:
    """Data without pictures say nothing about the model: what they ask for only a trained one can draw."""
    trained = ckpt_path is not None or getattr(locate(model.class_path), "trained", False)
    if data.image_shape is None and (command != "predict" or not trained):
        raise UsageError(
            f"{type(data).__name__} asks a trained model for pictures: darkroom predict --ckpt_path runs/.../best.ckpt "
            f"--data {type(data).__name__}"
        )


def link(data: Any, model: Namespace, checkpoint: str | Path | None = None) -> None:
    """Fills what the model's config leaves open from the data, and refuses what contradicts it.

    Data without pictures know nothing of them: what the checkpoint's model was told stands for it.
    """
    arguments = model.get("init_args") or Namespace()
    channels = None if data.image_shape is None else data.image_shape[0]
    known = {"num_classes": data.num_classes, "image_shape": data.image_shape, "in_channels": channels}
    remembered = _remembered(checkpoint)
    if data.image_shape is None and checkpoint is not None:
        known = {name: remembered.get(name) for name in known if arguments.get(name) is None}
    if not arguments.get("conditional", getattr(locate(model.class_path), "conditional", True)):
        known.pop("num_classes", None)  # pictures drawn without a class: any number of them will do
    for name, value in known.items():
        if name not in arguments or value is None:  # Prompts knows nothing of this, the checkpoint's config does
            continue
        if arguments[name] is None:
            arguments[name] = value
        elif arguments[name] != value:
            raise UsageError(
                f"model.{name} is {arguments[name]}, but {type(data).__name__} has {value}; set model.{name} to {value}"
            )
    _tell(arguments.get("network"), arguments)
    _tell_words(arguments.get("text"), data, remembered.get("text"))


def _remembered(checkpoint: str | Path | None) -> dict[str, Any]:
    """The model's arguments, as a checkpoint knows them; of one that cannot be read ``checkpoint_fits`` says so."""
    if checkpoint is None:
        return {}
    try:
        content = read_safely("ckpt_path", Path(checkpoint), mmap=True)
    except Damaged:
        return {}
    arguments = content.get("hyper_parameters") if isinstance(content, dict) else None
    return arguments if isinstance(arguments, dict) else {}


def _tell_words(text: Any, data: Any, remembered: Any) -> None:
    """Which words an encoder of ours knows: those that it has learned, in their order; a new one those of the data."""
    if not isinstance(text, Namespace) or "words" not in getattr(locate(text.class_path), "told", ()):
        return
    arguments = text.get("init_args") or Namespace()
    learned = ((remembered or {}).get("init_args") or {}).get("words")
    if learned and arguments.get("words") not in (None, learned):
        raise UsageError(
            "model.text.words are not those that the checkpoint has learned, in their order; leave them out: it knows its "
            "own"
        )
    words = learned or getattr(data, "words", None)
    if arguments.get("words") is None and not words:
        raise UsageError(
            f"{type(data).__name__} has no captions, from which model.text could take its words; use ShapesCaptions, "
            "CaptionFolder, CocoCaptions or ShardedCaptions"
        )
    _tell(text, {"words": words})


def _tell(part: Any, known: Mapping[str, Any]) -> None:
    """What a part of a model leaves open (None) of what it is ``told``, it takes from what is known."""
    if not isinstance(part, Namespace) or "class_path" not in part:
        return
    arguments = part.get("init_args") or Namespace()
    for name in getattr(locate(part.class_path), "told", ()):
        if arguments.get(name) is None and known.get(name) is not None:
            arguments[name] = known[name]


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def checkpoint_fits(path: Path, model: nn.Module, arguments: Namespace, resuming: bool) -> None:
    """Compares a checkpoint with what the config says: class, weights and, for a fit, optimizer and schedule."""
    checkpoint = read_safely("ckpt_path", path, mmap=True)
    require_whole("ckpt_path", path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise UsageError(f"ckpt_path {path} is no checkpoint of a run: it has no state_dict")
    remembered = checkpoint.get("hyper_parameters", {})
    if not isinstance(remembered, dict) or not isinstance(remembered.get("_class_path", ""), str):
        raise UsageError(
            f"ckpt_path {path} is no checkpoint of a run: its hyper_parameters name no class and arguments"
        )
    trained = remembered.get("_class_path", type(model).__name__).rsplit(".", 1)[-1]
    if trained != type(model).__name__:
        raise UsageError(f"ckpt_path {path} holds a {trained}, but the config says {type(model).__name__}")
    ours = model.state_dict()
    for name in [*(ours.keys() ^ state.keys()), *ours]:
        here, there = (_shape(s[name]) if name in s else "missing" for s in (ours, state))
        if here != there:
            raise UsageError(
                f"ckpt_path {path} does not fit the model: {name} is {there} there and {here} here; use the config.yaml of "
                "the run it came from"
            )
    for name in ("optimizer", "generator_optimizer", "discriminator_optimizer", "lr_scheduler"):
        here = arguments.get(name)
        here = here.as_dict() if isinstance(here, Namespace) else here
        here, there = (json.dumps(value, sort_keys=True, default=str) for value in (here, remembered.get(name)))
        if resuming and name in remembered and here != there:
            raise UsageError(
                f"ckpt_path {path} was trained with model.{name} {there}, the config says {here}; a fit goes on "
                "with what it began with: make them agree, or start anew from the weights (model.pretrained)"
            )


def predictions_are_written(trainer: Trainer) -> None:
    """A prediction that nobody writes would be work for nothing."""
    others = [callback for callback in trainer.callbacks if not isinstance(callback, ProgressBar)]
    if not any(is_overridden("on_predict_batch_end", callback, Callback) for callback in others):
        raise UsageError(
            "predict would write nothing; add a writer, --trainer.callbacks+=PredictionWriter for masks, DetectionWriter "
            "for boxes or SampleWriter for what is drawn"
        )
