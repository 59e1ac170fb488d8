"""Progress of a fit for schedules that count optimizer steps."""

from collections.abc import Sequence
from typing import Any

from lightning import Trainer
from torch.utils.data import DataLoader

from darkroom.errors import UsageError


class FitProgress:
    """Fraction of a fit's steps that are done.

    If a resumed fit is longer than before, the fraction does not fall: it grows from there to 1 over the remaining steps.
    """

    def __init__(self) -> None:
        self._steps: int | None = None
        self._start = (0, 0.0)  # step and fraction since when the fit has its length

    def begin(self, steps: int, step: int) -> None:
        """Set the length of the fit, and the step at which it begins or resumes."""
        if self._steps not in (None, steps):
            self._start = step, self.at(step)
        self._steps = steps

    def at(self, step: int) -> float:
        """Return the fraction at a step, in [0, 1]; 1 before ``begin``."""
        first, done = self._start
        if self._steps is None or step >= self._steps:
            return 1.0
        return done + (1 - done) * (step - first) / (self._steps - first)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"steps": self._steps, "start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of ``state_dict``."""
        self._steps, self._start = state["steps"], tuple(state["start"])


def samples_per_step(trainer: Trainer) -> int | None:
    """Return the number of samples of an optimizer step, over all ranks; None without a training loader of batches."""
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return None
    return loader.batch_size * trainer.world_size * trainer.accumulate_grad_batches


def require_samples_per_step(trainer: Trainer, saved: int | None, schedules: Sequence[type]) -> None:
    """Raise a UsageError if a fit resumes with steps of another size, which a schedule counts.

    Args:
        trainer: of the fit.
        saved: samples of a step when the checkpoint was written; None: unknown.
        schedules: that count steps.
    """
    now = samples_per_step(trainer)
    if saved is None or now is None or saved == now or not schedules:
        return
    raise UsageError(
        f"ckpt_path: {schedules[0].__name__} counts steps, which had {saved} samples when the checkpoint was written and "
        f"have {now} in this fit; make data.batch_size x trainer.accumulate_grad_batches x number of ranks {saved} again"
    )
