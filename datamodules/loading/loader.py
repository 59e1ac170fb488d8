"""DataLoader whose position is in the checkpoint, so that a killed run resumes with the same samples."""

import signal
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from darkroom.datamodules.loading.order import SeededSampler
from darkroom.datamodules.loading.samples import BAD_SAMPLES
from darkroom.errors import DataError, UsageError


def leave_signals_to_training(worker: int) -> None:
    """Ignore signals to the whole process group (Ctrl-C, Slurm) in a worker of a loader; the main process ends it.

    The main process finishes its step first. The first SIGTERM is ignored too; the second one, from multiprocessing, ends
    the worker.
    """
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: signal.signal(signum, signal.SIG_DFL))


class ResumableLoader(DataLoader[dict[str, Any]]):
    """DataLoader with a position that can be restored. Lightning stores ``state_dict()`` in the checkpoint.

    The position counts samples of all ranks, so another batch size or number of ranks resumes at the same sample. It is
    stored with the settings that determine the order of an epoch.

    With ``overfit_batches`` Lightning's sampler replaces ours and always starts from the beginning.

    Args:
        on_bad_samples: called with the read failures of a batch; a batch without any readable sample is skipped.
    """

    def __init__(self, *args: Any, on_bad_samples: Callable[[list[Any]], None] | None = None, **kwargs: Any) -> None:
        # Own generator: the start of an epoch would advance the global one, and a resumed run has one more start.
        super().__init__(
            *args, **{"generator": torch.Generator(), "worker_init_fn": leave_signals_to_training, **kwargs}
        )
        self.on_bad_samples = on_bad_samples
        self._resume: dict[str, Any] | None = None
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        """Begin an epoch, at the position of the checkpoint if that is within it."""
        resume, self._resume = self._resume, None
        self._epoch, self._start = epoch, 0
        if resume is not None and resume["epoch"] == epoch and isinstance(self.sampler, SeededSampler):
            self._start = self.sampler.skip = resume["samples"]
        self._yielded = 0
        self._left_out: list[int] = []  # number of batches yielded before each batch without a readable sample
        self._evaluated: list[list[int]] = []  # indices of the samples of each batch that was yielded

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # a generator around torch's iterator
        self._begin(self.sampler.epoch if isinstance(self.sampler, DistributedSampler) else 0)
        indices = iter(self._evaluation_order())
        for batch in self._loaded():
            read = list(islice(indices, self._size))
            if self.on_bad_samples is not None and BAD_SAMPLES in batch:
                bad = batch.pop(BAD_SAMPLES)
                self.on_bad_samples(bad)
                if not batch:
                    self._left_out.append(self._yielded)
                    continue
                omitted = {one.number for one in bad}
                read = [index for index in read if index not in omitted]
            self._yielded += 1
            if read:
                self._evaluated.append(read)
            yield batch
        if self._left_out and not self._yielded:  # no metrics without samples, and the other ranks would block
            raise DataError("none of the samples can be read; repair the data (see the reasons above)")

    def _loaded(self) -> Iterator[dict[str, Any]]:
        """Yield the batches; let torch report a killed worker instead of the connection that this worker left broken.

        The kernel closes the connections of a killed process shortly before it sends the SIGCHLD whose handler raises
        torch's error, with the worker's pid and signal: it raises that error within the wait.
        """
        broken = None
        try:
            yield from super().__iter__()
        except (ConnectionError, EOFError) as error:
            broken = error
        if broken is not None:  # outside of the handler, or the report would keep the loader's frames as its context
            time.sleep(1)
            raise broken

    def _evaluation_order(self) -> list[int]:
        """Return the indices of this rank's samples; none in training, where another sample replaces a bad one."""
        sampler = self.sampler
        return sampler.order(self._epoch) if isinstance(sampler, SeededSampler) and not sampler.shuffle else []

    def samples_of(self, batch: int) -> list[int]:
        """Return the indices of the samples in a batch of an evaluation that was yielded; none if they are unknown."""
        return self._evaluated[batch] if batch < len(self._evaluated) else []

    def __len__(self) -> int:
        # A rank without a batch (fewer samples than ranks) must reach the barrier at the end of the epoch. With length 0
        # Lightning would not start the epoch on it, and the other ranks would block forever.
        return max(1, super().__len__())

    def batches_before(self, samples: int) -> int:
        """Return how many batches of an epoch, of today's size, its first ``samples`` samples of all ranks stand for."""
        if not samples or not isinstance(self.sampler, SeededSampler):
            return 0
        left = len(self.sampler.order(self._epoch, samples))
        return len(self) - (left // self._size if self.drop_last else -(-left // self._size))

    def indices_of(self, epoch: int, batch: int) -> list[int]:
        """Return the indices of the samples in a batch of this rank, counted from the very start of the epoch."""
        skip = self._start if epoch == self._epoch else 0
        sampler = self.sampler  # Lightning replaces ours for overfit_batches
        order = sampler.order(epoch, skip) if isinstance(sampler, SeededSampler) else list(sampler)
        first = (batch - self.batches_before(skip)) * self._size
        return order[first : first + self._size]

    def position_after(self, batches: int) -> dict[str, Any]:
        """Return the position after the first ``batches`` batches of this epoch, those before a resume included."""
        before = self.batches_before(self._start)
        yielded = batches - before
        read = yielded + sum(number < yielded for number in self._left_out)
        return {
            "epoch": self._epoch,
            "batches": before + read,
            "samples": self._start + self._samples_in(read),
            "order": self.sampler.order_settings if isinstance(self.sampler, SeededSampler) else {},
        }

    @property
    def _size(self) -> int:
        return self.batch_size or 1

    def _samples_in(self, batches: int) -> int:
        """Return the number of samples of all ranks in this number of batches of each."""
        return batches * self._size * (self.sampler.num_replicas if isinstance(self.sampler, DistributedSampler) else 1)

    def state_dict(self) -> dict[str, Any]:
        return self.position_after(self.batches_before(self._start) + self._yielded)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next epoch at this position, if it is within that epoch.

        Raises:
            UsageError: the seed differs, or the position is within an epoch and another setting that determines its order.
        """
        if "samples" not in state:  # a checkpoint of the previous version, which counts batches alone
            state = {**state, "samples": self._samples_in(state["batches"]), "order": {}}
        now = self.sampler.order_settings if isinstance(self.sampler, SeededSampler) else {}
        complete = len(self) <= self.batches_before(state["samples"])
        for name, saved in state["order"].items():
            if name in now and now[name] != saved and (name == "data.seed" or not complete):
                raise UsageError(
                    f"ckpt_path: the checkpoint was written under {name} {saved}, but this fit has {now[name]}, so samples "
                    f"would be used twice or never; resume with {saved}, or start a new fit from the weights"
                )
        self._resume = dict(state)
