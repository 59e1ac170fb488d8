"""Objects of a config for a plan: datamodule without files, model without weights."""

from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

from jsonargparse import Namespace

from darkroom.cli.cli import DarkroomCLI
from darkroom.cli.linking import initial_weights_of
from darkroom.cli.run import execute
from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.captions.base import CaptionDataModule
from darkroom.errors import DataError, UsageError, UserError
from darkroom.lightning_modules.base import Technique
from darkroom.plan.counting.weights import weights_on_meta
from darkroom.plan.data_sizes import usual_classes

_VOCABULARY = 10_000  # words of a learned text encoder, unless data.max_words is less


@dataclass(frozen=True)
class Built:
    """Objects of a config.

    Args:
        model: with its parameters on the meta device.
        data: the datamodule; its data may be missing.
        trainer: options of the Trainer.
    """

    model: Technique
    data: VisionDataModule
    trainer: Namespace


class PlanBuild(DarkroomCLI):
    """Command line of a fit that builds data and model of its config without files, and trains nothing.

    Attributes:
        classes: number of classes of data that read them from files; None: that of the files.
    """

    classes: int | None = None
    built: Built

    def _find_run(self, command: str, config: Namespace, experiment: Any) -> None:
        """Do nothing: a plan has no run folder."""

    def build_datamodule(self, data: Namespace) -> VisionDataModule:
        """Build the datamodule, with numbered classes if its files, which name them, are missing."""
        built = super().build_datamodule(data)
        assert isinstance(built, VisionDataModule)
        self._lacks = ""
        try:
            count = len(built.class_names) if self.classes is None else self.classes
        except DataError as error:
            self._lacks, count = str(error), usual_classes(built)
        if self.classes is not None or self._lacks:
            built.restore_classes([f"class {number}" for number in range(count)], None)
        if isinstance(built, CaptionDataModule):  # instead of the words of all captions
            vars(built)["words"] = [f"word{number}" for number in range(min(built.max_words, _VOCABULARY))]
        return built

    def instantiate_classes(self) -> None:
        """Build data and model of the config, without initial weights, callbacks, loggers and Trainer."""
        building = self.link_config()
        config = building["fit"]
        config.trainer.logger = config.trainer.callbacks = None
        for arguments, name in initial_weights_of(config.model):
            arguments[name] = None
        self._build_without_weights(building)
        assert isinstance(self.model, Technique)
        assert isinstance(self.datamodule, VisionDataModule)
        self.built = Built(self.model, self.datamodule, config.trainer)

    def _build_without_weights(self, building: Namespace) -> None:
        """Build the model on the meta device or, if its constructor computes with its weights, with weights."""
        before = UserError.newest
        try:
            with weights_on_meta(), redirect_stderr(StringIO()):  # torch.fx prints a traceback
                self.build_model(building)
        except Exception as error:  # of torch, or of the parser, which wraps it
            if UserError.newest is before or "device meta" in str(error):
                self.build_model(building)
            elif self._lacks and self.classes is None:
                raise UsageError(
                    f"{UserError.newest}; the classes are unknown, since {self._lacks}: add --num_classes N"
                ) from error
            else:
                raise

    def run_command(self, command: str) -> None:
        """Do nothing: a plan ends here."""


def build_config(argv: Sequence[str], num_classes: int | None = None) -> Built:
    """Build data and model of a command line of ``fit``, without files and without weights.

    Args:
        argv: options of ``darkroom fit``.
        num_classes: of data that read their classes from files; None: those of the files, or usual ones of the data set.

    Raises:
        UserError: an option is invalid.
        SystemExit: the parser has printed an error.
    """

    class Build(PlanBuild):
        classes = num_classes

    return execute(["fit", *argv], Build).built
