"""The Lightning command line: ``darkroom fit|validate|test|predict``."""

import sys
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from darkroom.callbacks.training.checkpoint import SteadyCheckpoint
from darkroom.cli import config_checks
from darkroom.cli.trainer_defaults import equip
from darkroom.errors import Stopped, UsageError
from darkroom.runtime.lightning_compat import leave_signals, start_together
from darkroom.runtime.run_folder import (
    checkpoint_of,
    describe,
    fit_without_checkpoint,
    leave_job,
    new_run,
    newest_checkpoint,
    remove_if_empty,
    run_of_job,
    say_how_to_go_on,
)
from darkroom.runtime.wandb_logger import loggers_in


class DarkroomCLI(LightningCLI):
    """LightningCLI with a folder per run, best and last checkpoints, and its silent surprises turned into errors."""

    run_folder: Path | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (Exception, Stopped) as error:
            if self.run_folder and isinstance(error, OSError) and error.filename is None:
                error.filename = str(self.run_folder)  # which a write that fails does not say
            if self.run_folder and self.config.subcommand == "fit" and not isinstance(error, UsageError):
                say_how_to_go_on(self.run_folder, mended=not isinstance(error, Stopped))
            raise
        finally:
            remove_if_empty(self.run_folder)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only the command that was typed: to describe the other three takes .15 s."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name == sys.argv[1]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--experiment", type=str | None, help="Folder in runs_dir; default: the names of the configs."
        )
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder that holds the experiments.")
        # Groups of their own, so that no callback list of a config can drop them; two of them, since save_last of one that
        # monitors a score is not renewed while the score gets worse.
        shared = {"save_top_k": 1, "enable_version_counter": False}
        best = {"filename": "best"}  # by what the technique says
        last = {"filename": "last", "every_n_epochs": 1, "save_on_train_epoch_end": True, "save_on_exception": True}
        for group, defaults in {"checkpoint": best | shared, "last_checkpoint": last | shared}.items():
            parser.add_lightning_class_args(SteadyCheckpoint, group)
            parser.set_defaults({f"{group}.{name}": value for name, value in defaults.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        config = self.config[command]
        config_checks.refuse_secrets(config)
        config_checks.refuse_replaced_callbacks(config)
        config_checks.refuse_stale_last(config)
        config.experiment = config.experiment or config_checks.experiment_name(config)
        self._find_run(command, config, Path(config.runs_dir, config.experiment))
        # Only a fit's config can be fitted again, so the others get a name of their own.
        self.save_config_kwargs["config_filename"] = "config.yaml" if command == "fit" else f"{command}.yaml"

    def _find_run(self, command: str, config: Namespace, experiment: Path) -> None:
        """Resolves ``ckpt_path`` last and best, and decides the run's folder: the checkpoint's, or a new one.

        A restarted job goes on in the run that it began, whatever it was told to begin with.
        """
        given = config.ckpt_path
        begun = run_of_job(experiment) if command == "fit" else None
        if command == "fit" and given == "last" and begun is None and newest_checkpoint(experiment, "last") is None:
            begun = fit_without_checkpoint(experiment)
            if begun is not None:
                given = config.ckpt_path = None
        if checkpoint_of(begun, "last"):
            given, config.ckpt_path = "last", checkpoint_of(begun, "last")
        elif given in ("last", "best"):
            config.ckpt_path = newest_checkpoint(experiment, given, but=begun)
        if given is not None:
            config_checks.require_checkpoint(config.ckpt_path, given, experiment)
        self.continued = begun is not None or (command == "fit" and given == "last")
        checkpoint = Path(config.ckpt_path or "-")
        in_place = self.continued or (command != "fit" and checkpoint.parent.name == "checkpoints")
        self.run_folder = begun or (checkpoint.parents[1] if in_place else new_run(experiment))
        if command == "fit":
            leave_job(self.run_folder)

    def _parse_ckpt_path(self) -> None:
        """Unlike Lightning's: a checkpoint's hyper-parameters never override config and command line."""

    def instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        # The data first: what it knows fills the gaps in the model's config, and so is written down with it.
        self.config_dump: dict[str, Any] = {}  # only a model's hyper-parameters are read from it
        self.datamodule = self._parser(self.subcommand).instantiate_classes(Namespace(data=config.data)).data
        config_checks.prompted_model_is_trained(self.datamodule, config.model, self.subcommand, config.ckpt_path)
        config_checks.link(self.datamodule, config.model, config.ckpt_path)
        if config.checkpoint.monitor is None:
            config.checkpoint.monitor, config.checkpoint.mode = locate(config.model.class_path).monitor
        del self.config_dump  # made without the links; made again, it becomes the checkpoint's hyper-parameters
        building = self.config.clone()
        building[self.subcommand].data = self.datamodule
        if config.ckpt_path:  # it has better weights than those that the model began with
            for name in getattr(locate(config.model.class_path), "starts_from", ()):
                building[self.subcommand].model.init_args[name] = None
        loggers_in(self.run_folder, building[self.subcommand].trainer)
        self.config_init = self.parser.instantiate_classes(building)
        self.model = self._get(self.config_init, "model")
        self._add_configure_optimizers_method_to_model(self.subcommand)
        self.trainer = self.instantiate_trainer()
        if config.ckpt_path:
            config_checks.checkpoint_fits(
                Path(config.ckpt_path), self.model, config.model.init_args, self.subcommand == "fit"
            )

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        if config["barebones"]:
            self.save_config_callback, callbacks = None, []
        else:
            callbacks = equip(config, callbacks, self.run_folder, self.continued)
        try:
            trainer = super()._instantiate_trainer(config, callbacks)
        except ValueError as error:  # settings that do not go together, such as fsdp.yaml and 16-mixed
            raise UsageError(f"trainer: {error}") from error
        leave_signals(trainer)
        start_together(trainer)
        for callback in trainer.checkpoint_callbacks if trainer.world_size > 1 else []:
            callback.save_on_exception = False  # saving asks all ranks, and the others would wait for ever
        return trainer

    def before_predict(self) -> None:
        config_checks.predictions_are_written(self.trainer)

    def after_fit(self) -> None:
        if self.trainer.is_global_zero:
            describe(self.run_folder)

    after_validate = after_test = after_predict = after_fit
