"""Checks of configs that LightningCLI would accept and handle wrongly; each raises a UsageError."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.model_helpers import is_overridden

from darkroom.cli.linking import config_traits, initial_weights_of
from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import UsageError
from darkroom.runtime.lightning_compat import callbacks_of
from darkroom.secrets import is_secret


def config_files(config: Namespace) -> list[Path]:
    """List the files given with --config, in order."""
    return [Path(str(path)) for path in config.get("config") or []]


def require_readable_config(path: Path) -> None:
    """Raise a UsageError for a config file that is missing, or is not a YAML mapping of groups."""
    if not path.is_file():
        raise UsageError(f"config {path} does not exist; `darkroom list` shows the shipped ones")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"config {path} has no settings; it must have keys such as model, data, trainer")
    for group in ("trainer", "checkpoint", "last_checkpoint"):  # the parser would ignore such a value, or fail
        value = content.get(group)
        if not isinstance(value, dict | None) and not (isinstance(value, str) and value):
            raise UsageError(f"config {path}: {group} is {value!r}; it must be a mapping of settings, NAME: VALUE")


def refuse_secrets(config: Namespace) -> None:
    """Raise a UsageError for values with a password or a key: configs are saved in run folders, checkpoints and W&B."""
    for key, text in _texts(config.as_dict()):
        if is_secret(key, text):
            raise UsageError(
                f"{key} holds a password, a key or a token, which would be saved with the config; put it in the "
                "environment or in ~/.netrc: W&B reads WANDB_API_KEY there, Hugging Face HF_TOKEN, the cloud's own tools "
                'their keys; a command after pipe: can name it, as in curl --netrc, or "$TOKEN"'
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts in a config, each with its key."""
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
    """Join the names of the configs, except those of trainer and logger; without configs, of model and data."""
    names = [path.stem for path in config_files(config) if path.parent.name not in ("trainer", "logger")]
    classes = [config[key].class_path.rsplit(".", 1)[-1] for key in ("model", "data")]
    return "-".join(names or classes)


def as_list(value: Any) -> list[Any]:
    """Return a value as a list: a list unchanged, None as an empty one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _class_names(callbacks: Any) -> set[str]:
    paths = [entry if isinstance(entry, str) else (entry or {}).get("class_path", "") for entry in as_list(callbacks)]
    return {path.rsplit(".", 1)[-1] for path in paths if path}


def refuse_replaced_callbacks(config: Namespace) -> None:
    """Raise a UsageError if a ``callbacks`` list replaces an earlier one without null in between."""
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
    lost = expected.keys() - {cb.class_path.rsplit(".", 1)[-1] for cb in as_list(config.trainer.callbacks)}
    if lost:
        names, path = ", ".join(sorted(lost)), expected[min(lost)]
        raise UsageError(
            f"trainer.callbacks replaces {names} of {path}; append with `callbacks+:` (on the command line "
            "--trainer.callbacks+=NAME), or set `callbacks: null` in between to drop them"
        )


def refuse_stale_last(config: Namespace) -> None:
    """Raise a UsageError for ``save_last`` with a monitored metric: it is written only if the metric is among the best."""
    groups = [cb.init_args for cb in as_list(config.trainer.callbacks) if cb.class_path.endswith("ModelCheckpoint")]
    stale = any(group.get("save_last") and group.get("monitor") for group in [config.last_checkpoint, *groups])
    if stale or config.checkpoint.get("save_last"):  # checkpoint always monitors a metric
        raise UsageError(
            "save_last with a monitor is not updated while the metric gets worse; remove save_last: "
            "last_checkpoint writes last.ckpt"
        )


# Callbacks and strategies of Lightning that cannot work with any method, with the remedy.
_USELESS_CALLBACKS = {
    "LearningRateFinder": "cannot set the rate of model.optim.optimizer; compare a few values of "
    "--model.optim.optimizer.lr instead, for instance with `wandb sweep` (configs/sweep)",
    "BackboneFinetuning": "needs model.backbone, which no method has; set model.optim.freeze_epochs and "
    "model.optim.backbone_lr instead",
    **dict.fromkeys(("BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"), ""),
}


def refuse_useless_callbacks(config: Namespace) -> None:
    """Raise a UsageError for callbacks of Lightning that would do nothing, or fail with any method."""
    for callback in as_list(config.trainer.callbacks):
        module, _, name = callback.class_path.rpartition(".")
        if module.partition(".")[0] == "lightning" and name in _USELESS_CALLBACKS:
            reason = _USELESS_CALLBACKS[name] or "is a base class, which does nothing; name a class derived from it"
            raise UsageError(f"trainer.callbacks: {name} {reason}")


def refuse_spawn(config: Namespace) -> None:
    """Raise a UsageError for strategies that start ranks by pickling the Trainer, which callbacks prevent."""
    strategy = config.trainer.strategy
    options = strategy.get("init_args") or {} if isinstance(strategy, Namespace) else {}
    if (isinstance(strategy, str) and "spawn" in strategy) or options.get("start_method") == "spawn":
        raise UsageError(
            "trainer.strategy starts ranks by spawn, which cannot copy a Trainer; it must be ddp or ddp_fork"
        )


def starts_trained(model: Namespace, ckpt_path: Path | str | None) -> bool:
    """Return True if a model is evaluated with weights of a checkpoint, or with initial weights that its config names."""
    named = any(arguments[name] is not None for arguments, name in initial_weights_of(model))
    return ckpt_path is not None or config_traits(model.class_path).is_trained or named


def require_trained_model(data: VisionDataModule, model: Namespace, command: str, ckpt_path: Path | str | None) -> None:
    """Raise a UsageError for data without images (prompts), except for prediction with a trained model."""
    trained = ckpt_path is not None or config_traits(model.class_path).is_trained
    if data.image_shape is None and (command != "predict" or not trained):
        raise UsageError(
            f"{type(data).__name__} needs a trained model to sample from: darkroom predict --ckpt_path runs/.../best.ckpt "
            f"--data {type(data).__name__}"
        )


def writes_predictions(trainer: Trainer) -> bool:
    """Return True if a callback writes predictions."""
    others = [callback for callback in callbacks_of(trainer) if not isinstance(callback, ProgressBar)]
    return any(is_overridden("on_predict_batch_end", callback, Callback) for callback in others)


def require_prediction_writer(trainer: Trainer) -> None:
    """Raise a UsageError if no callback writes the predictions."""
    if not writes_predictions(trainer):
        raise UsageError(
            "predict would write nothing; add a writer, --trainer.callbacks+=ClassificationWriter for classes, "
            "PredictionWriter for masks, DetectionWriter for boxes or SampleWriter for samples"
        )
