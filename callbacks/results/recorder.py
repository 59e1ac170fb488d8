"""ResultRecorder: writes the results of a test, by the recorder of its task."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.callbacks.base import logged_step, run_folder
from darkroom.callbacks.results.autoencoding import AutoencodingRecorder
from darkroom.callbacks.results.base import Sample, Subject, TaskRecorder
from darkroom.callbacks.results.captions import CaptionRecorder
from darkroom.callbacks.results.classification import ClassificationRecorder
from darkroom.callbacks.results.detection import DetectionRecorder
from darkroom.callbacks.results.segmentation import SegmentationRecorder
from darkroom.callbacks.writers.prediction_files import PredictedFiles, gather_rows
from darkroom.errors import UsageError
from darkroom.protocols import ImageData, NumberedLoader, TaskModel
from darkroom.runtime.lightning_compat import class_names_of, datamodule_of, is_fast_dev_run
from darkroom.runtime.records.results import FOLDER, Summary, create_folder, write_summary

_RECORDERS: Mapping[str, type[TaskRecorder]] = {
    kind.task: kind
    for kind in (
        ClassificationRecorder,
        SegmentationRecorder,
        DetectionRecorder,
        AutoencodingRecorder,
        CaptionRecorder,
    )
}


class ResultRecorder(Callback):
    """Writes the results of a test to ``test/`` in the run folder: a summary, tables, images (``runtime.records.results``).

    They are what the test step returned, for modules that state their task (``TaskModel``). Those of captions are the
    samples that the module's ``scores`` judge. On several ranks rank 0 writes the results of all. A test that ends early
    leaves a folder without ``summary.json``. W&B gets the confusion matrix, precision by recall and a table of the worst
    images, as far as the task has them.

    Args:
        worst: number of images with the worst score that are written.
        examples: number of images for each class, pair of classes and kind of error; fewer if there are many classes.
    """

    def __init__(self, worst: int = 24, examples: int = 4) -> None:
        for name, value in {"worst": worst, "examples": examples}.items():
            if value < 0:
                raise UsageError(f"ResultRecorder.{name} must be at least 0, got {value}")
        self.worst, self.examples = worst, examples
        self._recorder: TaskRecorder | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = run_folder(trainer)  # on every rank, since it is broadcast

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._recorder, self._refused, self._count = None, False, 0
        if not isinstance(pl_module, TaskModel) or is_fast_dev_run(trainer):
            return
        kind = _RECORDERS.get(pl_module.task)
        if kind is None or not kind.records(pl_module):
            return
        data, first = datamodule_of(trainer), int(pl_module.task == "detection")
        names = class_names_of(trainer) or [str(first + label) for label in range(pl_module.num_classes or 0)]
        images = data if isinstance(data, ImageData) else None
        subject = Subject(pl_module, names, images, self.worst, self.examples)
        self._recorder = kind(subject)
        self._recorder.start()
        self._files = PredictedFiles(trainer.test_dataloaders)
        if trainer.is_global_zero:
            create_folder(self.folder)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if self._recorder is None or self._refused:
            return
        self._refused = not self._recorder.accepts(outputs, batch)
        if not self._refused:
            self._recorder.add(self._samples(trainer, batch, batch_idx), outputs, batch)

    def _samples(self, trainer: Trainer, batch: Mapping[str, Any], batch_idx: int) -> Sequence[Sample]:
        loader, count = trainer.test_dataloaders, len(batch["image"])
        numbers = loader.samples_of(batch_idx) if isinstance(loader, NumberedLoader) else []
        if len(numbers) != count:  # a sampler of others, which gives samples to the ranks in turn
            numbers = [(self._count + i) * trainer.world_size + trainer.global_rank for i in range(count)]
        self._count += count
        paths = [self._files.path(batch, index) for index in range(count)]
        names = ("" if path is None else path.as_posix() for path in paths)
        return [Sample(number, name) for number, name in zip(numbers, names, strict=True)]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        recorder.stop()
        if any(gather_rows(trainer, [self._refused])):
            rank_zero_warn(
                f"no test results are written, because test_step of {type(pl_module).__name__} does not return what its "
                f"task {recorder.task} needs: {recorder.expected}"
            )
            if trainer.is_global_zero:
                shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
            return
        recorder.gather(trainer)
        if trainer.is_global_zero:
            recorder.write(self.folder / FOLDER)
            write_summary(self.folder / FOLDER, self._summary(trainer, recorder))
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    # Charts and tables are values like metrics, which the type of the argument does not state.
                    logger.log_metrics(recorder.wandb_media(), logged_step(trainer))

    def _summary(self, trainer: Trainer, recorder: TaskRecorder) -> Summary:
        return Summary(
            task=recorder.task,
            class_names=recorder.class_names,
            metrics={name: float(value) for name, value in trainer.callback_metrics.items()},
            num_samples=len(recorder.rows),
            checkpoint=None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            step=logged_step(trainer),
            tested=datetime.now().astimezone().isoformat(timespec="seconds"),
            notes=recorder.notes,
        )
