"""RunRecorder: state, time, memory, machine and versions of a fit in run.json."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sized

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from darkroom.callbacks.base import logged_step, run_folder
from darkroom.errors import Stopped
from darkroom.protocols import NormalizedData, ShapedData
from darkroom.runtime.lightning_compat import class_names_of, datamodule_of, is_fast_dev_run
from darkroom.runtime.records.run_record import (
    DataFacts,
    RunRecord,
    State,
    describe_processor,
    describe_start,
    peak_memory_of_process,
    read_record,
)


class RunRecorder(Callback):
    """Writes ``run.json`` in the run folder (``RunRecord``), on rank 0: at the start, after every epoch and at the end.

    ``darkroom runs``, ``report`` and ``compare`` read it. A resumed fit adds its time to that of the earlier starts. With
    ``fast_dev_run`` nothing is written.
    """

    def __init__(self) -> None:
        self._record: RunRecord | None = None  # read by on_exception, also if setup was not reached

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = run_folder(trainer)  # on every rank, since it is broadcast
        self._record = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or is_fast_dev_run(trainer):
            return
        earlier, start = read_record(self._folder), describe_start(sys.argv)
        self._earlier_seconds = earlier.seconds if earlier else 0.0
        self._earlier_memory = (earlier.peak_memory_mib if earlier else None) or 0.0
        if earlier:
            start["started"] = earlier.started
        self._started = time.monotonic()
        self._record = RunRecord(
            state="running",
            seconds=self._earlier_seconds,
            peak_memory_mib=self._earlier_memory or None,
            parameters=_count_parameters(pl_module),
            seed=_seed(),
            devices=trainer.world_size,
            precision=str(trainer.precision),
            machine=_describe_device(pl_module.device),
            **start,
        )
        self._record.write(self._folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._record is not None:  # the loaders exist by now
            self._record = dataclasses.replace(self._record, data=_describe_data(trainer))
            self._record.write(self._folder)

    def _update(self, state: State, trainer: Trainer) -> None:
        if self._record is None:
            return
        seconds = self._earlier_seconds + time.monotonic() - self._started
        memory = max(_peak_memory(trainer.lightning_module.device) or 0.0, self._earlier_memory) or None
        self._record = dataclasses.replace(
            self._record,
            state=state,
            seconds=round(seconds, 1),
            peak_memory_mib=memory,
            steps=logged_step(trainer) or None,
        )
        self._record.write(self._folder)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._update("running", trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._update("finished", trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with contextlib.suppress(OSError):  # a full disk must not hide the error
            self._update("stopped" if isinstance(exception, Stopped | KeyboardInterrupt) else "failed", trainer)


def _describe_data(trainer: Trainer) -> DataFacts:
    data = datamodule_of(trainer)
    loaders = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
    shape = data.image_shape if isinstance(data, ShapedData) else None
    normalized = data if isinstance(data, NormalizedData) else None
    return DataFacts(
        samples={
            split: len(loader.dataset)
            for split, loader in loaders.items()
            if isinstance(loader, DataLoader) and isinstance(loader.dataset, Sized)
        },
        class_names=list(map(str, class_names_of(trainer) or ())),
        image_shape=None if shape is None else list(shape),
        mean=None if normalized is None else list(map(float, normalized.mean)),
        std=None if normalized is None else list(map(float, normalized.std)),
    )


def _count_parameters(module: LightningModule) -> int | None:
    """Return the number of weights; None if the first batch determines the shape of some."""
    parameters = list(module.parameters())
    return None if any(map(is_lazy, parameters)) else sum(parameter.numel() for parameter in parameters)


def _seed() -> int | None:
    value = os.environ.get("PL_GLOBAL_SEED", "")  # written by seed_everything
    return int(value) if value.isdigit() else None


def _describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else describe_processor()


def _peak_memory(device: torch.device) -> float | None:
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_memory_of_process()
    return None if memory is None else round(memory, 1)
