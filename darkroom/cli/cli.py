"""Lightning command line: ``darkroom fit|validate|test|predict``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from darkroom.callbacks.training.checkpoint import SteadyCheckpoint
from darkroom.callbacks.training.model_summary import ShortModelSummary
from darkroom.cli import checkpoint_checks, config_checks
from darkroom.cli.linking import config_traits, initial_weights_of, link_model, use_saved_classes
from darkroom.cli.options.trainer_defaults import add_defaults, warn_of_slow_bf16
from darkroom.cli.results import describe_card, format_best, format_metrics, next_commands
from darkroom.errors import Stopped, UsageError, UserError
from darkroom.runtime.fit_folder import absolute_options
from darkroom.runtime.lightning_compat import SteppedCLI, is_fast_dev_run, leave_signals, start_together
from darkroom.runtime.records.past_tests import append_test
from darkroom.runtime.run_folder import (
    create_run,
    find_checkpoint,
    find_newest_checkpoint,
    find_run_of_job,
    find_unsaved_fit,
    print_resume_hint,
    print_summary,
    record_job,
    remove_if_empty,
    remove_if_unused,
    written_files,
)
from darkroom.runtime.wandb_logger import direct_loggers, set_goal


class DarkroomCLI(SteppedCLI):
    """LightningCLI with a folder per run, best and last checkpoints, and checks of the config."""

    run_folder: Path | None = None
    resumed = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (Exception, Stopped) as error:
            if self.run_folder and isinstance(error, OSError) and error.filename is None:
                error.filename = str(self.run_folder)  # a failed write has no file name
            if self.run_folder and self.config.subcommand == "fit" and not isinstance(error, UsageError):
                print_resume_hint(self.run_folder, failed=not isinstance(error, Stopped))
            if self.run_folder and isinstance(error, UserError):
                remove_if_unused(self.run_folder)
            raise
        finally:
            remove_if_empty(self.run_folder)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the parameters of the current command that are left out of its options.

        The other commands would take 0.15 s. ``weights_only`` would have no effect: checkpoints are always read so.
        """
        commands = LightningCLI.subcommands()
        return {name: skipped | {"weights_only"} for name, skipped in commands.items() if name == sys.argv[1]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run folder and of the two checkpoints."""
        parser.add_argument(
            "--experiment", type=str | None, help="Folder in runs_dir; default: the names of the configs."
        )
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder that holds the experiments.")
        if sys.argv[1] == "test":
            parser.add_argument(
                "--results", type=bool, default=True, help="Write per-sample results and images to the run's test/."
            )
        # Separate groups, because a config's callback list would replace them; two groups, because save_last of a
        # checkpoint that monitors a metric becomes stale while the metric gets worse.
        shared: dict[str, Any] = {"save_top_k": 1, "enable_version_counter": False}
        best: dict[str, Any] = {"filename": "best"}  # the model defines the metric
        last: dict[str, Any] = {
            "filename": "last",
            "every_n_epochs": 1,
            "save_on_train_epoch_end": True,
            "save_on_exception": True,
        }
        for group, defaults in {"checkpoint": best | shared, "last_checkpoint": last | shared}.items():
            parser.add_lightning_class_args(SteadyCheckpoint, group)
            parser.set_defaults({f"{group}.{name}": value for name, value in defaults.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse and check the command line, and find the run folder."""
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        config = self.config[command]
        config_checks.refuse_secrets(config)
        config_checks.refuse_replaced_callbacks(config)
        config_checks.refuse_stale_last(config)
        config_checks.refuse_useless_callbacks(config)
        config_checks.refuse_spawn(config)
        config.experiment = config.experiment or config_checks.experiment_name(config)
        self._find_run(command, config, Path(config.runs_dir, config.experiment))
        if Path(config.runs_dir).is_absolute():  # the place of the run does not determine where the fit was started
            for key, value in absolute_options(config.as_dict()).items():
                config[key] = value
        # config.yaml is that of the fit, which can be run again.
        self.save_config_kwargs["config_filename"] = "config.yaml" if command == "fit" else f"{command}.yaml"

    def _find_run(self, command: str, config: Namespace, experiment: Path) -> None:
        """Resolve ``ckpt_path`` last and best, and choose the run folder: that of the checkpoint, or a new one.

        A restarted job resumes its own run, whatever its ``ckpt_path``.
        """
        given = config.ckpt_path
        begun = find_run_of_job(experiment) if command == "fit" else None
        if (
            command == "fit"
            and given == "last"
            and begun is None
            and find_newest_checkpoint(experiment, "last") is None
        ):
            begun = find_unsaved_fit(experiment)
            if begun is not None:
                given = config.ckpt_path = None
        if find_checkpoint(begun, "last"):
            given, config.ckpt_path = "last", find_checkpoint(begun, "last")
        elif given in ("last", "best"):
            config.ckpt_path = find_newest_checkpoint(experiment, given, but=begun)
        if given is not None:
            checkpoint_checks.require_checkpoint(config.ckpt_path, given, experiment)
        self.resumed = begun is not None or (command == "fit" and given == "last")
        checkpoint = Path(config.ckpt_path or "-")
        in_place = self.resumed or (command != "fit" and checkpoint.parent.name == "checkpoints")
        self.run_folder = begun or (checkpoint.parents[1] if in_place else create_run(experiment))
        if command == "fit":
            record_job(self.run_folder)
        self._before = written_files(self.run_folder)

    def instantiate_classes(self) -> None:
        """Build the datamodule, fill open arguments of the model from it, then build the rest."""
        config, building = self.config[self.subcommand], self.link_config()
        assert self.subcommand is not None  # a command without one has printed its help
        if self.subcommand in ("validate", "test"):
            building[self.subcommand].verbose = False  # the table of after_validate replaces Lightning's
        if self.subcommand == "predict":
            building.predict.return_predictions = False  # writers have them; a list of all would fill the memory
        depth = len(Path(config.experiment).parts) + 1
        direct_loggers(self._folder, building[self.subcommand].trainer, "/".join(self._folder.parts[-depth:]))
        self.build_model_and_trainer(building)
        if config.ckpt_path:
            path, resuming = Path(config.ckpt_path), self.subcommand == "fit"
            checkpoint_checks.check_checkpoint(path, self.model, config.model, self.datamodule, resuming)

    def link_config(self) -> Namespace:
        """Build the datamodule, fill open arguments of the config from it, and return the config to build the rest from."""
        config = self.config[self.subcommand]
        # The data first, since they fill open arguments of the model's config, which is saved with them.
        self.config_dump: dict[str, Any] = {}  # the hyper-parameters of the model are read from it
        self.datamodule = self.build_datamodule(config.data)
        if self.subcommand == "predict" and config.ckpt_path and self.datamodule.predict is not None:
            use_saved_classes(self.datamodule, config.ckpt_path)
        config_checks.require_trained_model(self.datamodule, config.model, str(self.subcommand), config.ckpt_path)
        link_model(self.datamodule, config.model, config.ckpt_path)
        traits = config_traits(config.model.class_path)
        if config.checkpoint.monitor is None:
            config.checkpoint.monitor, config.checkpoint.mode = traits.monitor
        del self.config_dump  # it lacks the linked arguments; created again, it becomes the hyper-parameters
        building = self.config.clone()
        building[self.subcommand].data = self.datamodule
        for arguments, name in initial_weights_of(building[self.subcommand].model) if config.ckpt_path else ():
            arguments[name] = None  # the checkpoint replaces those weights
        return building

    @property
    def _folder(self) -> Path:
        assert self.run_folder is not None  # set by parse_arguments
        return self.run_folder

    def make_trainer(self, arguments: dict[str, Any], callbacks: Sequence[Callback]) -> Trainer:
        """Build the Trainer with the defaults of every run, except with ``barebones``."""
        if arguments["barebones"]:
            self.save_config_callback, callbacks = None, []
        else:
            given = [*callbacks, *config_checks.as_list(arguments["callbacks"])]
            own_summary = any(isinstance(callback, ModelSummary) for callback in given)
            if arguments["enable_model_summary"] is not False and not own_summary:
                callbacks = [*callbacks, ShortModelSummary()]
            records = self.subcommand == "test" and self.config["test"].results
            callbacks = add_defaults(arguments, list(callbacks), self._folder, self.resumed, records)
        try:
            trainer = super().make_trainer(arguments, callbacks)
        except (ImportError, TypeError, ValueError) as error:  # settings that do not fit, or hardware that is missing
            raise UsageError(f"trainer: {error}") from error
        warn_of_slow_bf16(trainer)
        checkpoint = self.config[self.subcommand].checkpoint
        set_goal(trainer.loggers, checkpoint.monitor, checkpoint.mode)
        leave_signals(trainer)
        start_together(trainer)
        for callback in trainer.checkpoint_callbacks if trainer.world_size > 1 else []:
            if isinstance(callback, ModelCheckpoint):
                callback.save_on_exception = False  # saving needs all ranks, and would block forever
        return trainer

    def before_predict(self) -> None:
        """Raise a UsageError if no callback writes the predictions."""
        config_checks.require_prediction_writer(self.trainer)

    def after_fit(self) -> None:
        """Print the best metric, the run's folder and the next commands."""
        if not self.trainer.is_global_zero:
            return
        best, last = (self.config_init[self.subcommand][group] for group in ("checkpoint", "last_checkpoint"))
        if line := format_best(best):
            print(line)
        self.after_predict()
        self._write_card()
        path = best.best_model_path or last.best_model_path
        if path and self.save_config_callback:
            commands = next_commands(self._folder, Path(path), config_checks.writes_predictions(self.trainer))
            print("next:", *commands, sep="\n  ")

    def after_predict(self) -> None:
        """Print the run's folder and what the command wrote."""
        if self.trainer.is_global_zero:
            print_summary(self._folder, self._before)

    def _write_card(self) -> None:
        """Write the model card of a fit, and print its path or the reason why it could not be written."""
        if (self._folder / "config.yaml").is_file() and not is_fast_dev_run(self.trainer):
            print(describe_card(self._folder))

    def after_validate(self) -> None:
        """Print the metrics and the run's folder."""
        config = self.config[self.subcommand]
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        if config.verbose and metrics and self.trainer.is_global_zero:
            stage = "val" if self.subcommand == "validate" else "test"
            if not config_checks.starts_trained(config.model, config.ckpt_path):
                print(
                    "\nThese are the metrics of random weights, because --ckpt_path is not set (best, last or a file):"
                )
            print(f"\n{format_metrics(metrics, stage, config.checkpoint.monitor)}\n")
        self.after_predict()

    def after_test(self) -> None:
        """Print the metrics and the run's folder, and add the test to those of the run."""
        if self.trainer.is_global_zero and self.save_config_callback and not is_fast_dev_run(self.trainer):
            metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            append_test(self._folder, self.config[self.subcommand].ckpt_path, metrics)
        self.after_validate()
        if self.trainer.is_global_zero:
            self._write_card()
