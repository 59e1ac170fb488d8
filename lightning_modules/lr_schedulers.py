"""Learning rate schedules that the papers' recipes need and torch lacks in one piece."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from lightning import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau as LightningReduceLROnPlateau
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from darkroom.errors import UsageError


def count_fit_steps(trainer: Trainer, needed_by: str) -> int:
    """Return the number of optimizer steps of the whole fit.

    Args:
        trainer: of the fit.
        needed_by: named in the error.

    Raises:
        UsageError: the fit has no end.
    """
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise UsageError(f"{needed_by} needs the length of the fit: set trainer.max_epochs or max_steps")
    return int(steps)


@runtime_checkable
class StepsByInterval(Protocol):
    """Scheduler that states its interval, step or epoch; all others are stepped every epoch."""

    interval: ClassVar[str]


def configure_scheduler(scheduler: LRScheduler | ReduceLROnPlateau) -> dict[str, Any]:
    """Return a scheduler as Lightning takes it, with its interval and, for ReduceLROnPlateau, its monitor."""
    config: dict[str, Any] = {"scheduler": scheduler, "interval": "epoch"}
    if isinstance(scheduler, StepsByInterval):
        config["interval"] = scheduler.interval
    if isinstance(scheduler, LightningReduceLROnPlateau):
        config["monitor"] = scheduler.monitor
    return config


class WarmupCosine(LRScheduler):
    """Linear warm-up, then half a cosine down to zero, over the whole fit, stepped every batch.

    Args:
        optimizer: its learning rate is the peak.
        warmup: fraction of the fit that warms up, in [0, 1).
    """

    interval: ClassVar[str] = "step"

    def __init__(self, optimizer: Optimizer, warmup: float = 0.05) -> None:
        if not 0 <= warmup < 1:
            raise UsageError(f"WarmupCosine.warmup must be a fraction in [0, 1), got {warmup}")
        self.warmup, self.total_steps = warmup, 1
        super().__init__(optimizer)

    def spread(self, total_steps: int) -> None:
        """Stretch the schedule over this many steps; must be called before the first one, also when a run resumes."""
        self.total_steps = total_steps
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def get_lr(self) -> list[float | Tensor]:
        """Compute the learning rate of each parameter group at the current step."""
        done = min(1.0, (self.last_epoch + 1) / (self.total_steps + 1))
        cosine = (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2
        return [lr * (done / self.warmup if done < self.warmup else cosine) for lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}


class WarmupSteps(LRScheduler):
    """Linear warm-up to the optimizer's rate, which then drops at milestones; counted in epochs.

    YOLO's (Redmon et al. 2016, section 2.2): from 0.001 to 0.01, then 0.001 from epoch 75 and 0.0001 from epoch 105 on.

    Args:
        optimizer: its learning rate is the peak.
        milestones: ascending epochs, at each of which the rate is multiplied by ``factor``.
        warmup: epochs until the peak is reached; 0 for none.
        start: the first epoch's rate as a fraction of the peak, in (0, 1].
        factor: in (0, 1).

    Raises:
        UsageError: a value is out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        warmup: int = 0,
        start: float = 0.1,
        factor: float = 0.1,
    ) -> None:
        milestones = list(milestones)
        if warmup < 0 or milestones != sorted(set(milestones)) or min(milestones, default=warmup) < warmup:
            raise UsageError(
                f"WarmupSteps.milestones must be ascending epochs, none before the end of the warm-up ({warmup}), got "
                f"{milestones}"
            )
        if not (0 < start <= 1 and 0 < factor < 1):
            raise UsageError(f"WarmupSteps.start must be in (0, 1] and factor in (0, 1), got {start} and {factor}")
        self.milestones, self.warmup, self.start, self.factor = milestones, warmup, start, factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Compute the learning rate of each parameter group at the current epoch."""
        epoch = self.last_epoch
        fraction = self.start + (1 - self.start) * epoch / self.warmup if epoch < self.warmup else 1.0
        fraction *= self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        return [lr * fraction for lr in self.base_lrs]


class WarmupConstant(LRScheduler):
    """Linear warm-up to the optimizer's rate, which then stays constant; stepped every batch.

    DDPM's (Ho et al. 2020, appendix B, 5,000 steps).

    Args:
        optimizer: its learning rate is the peak.
        steps: number of steps of the warm-up; 0 for none.

    Raises:
        UsageError: the number is negative.
    """

    interval: ClassVar[str] = "step"

    def __init__(self, optimizer: Optimizer, steps: int = 5000) -> None:
        if steps < 0:
            raise UsageError(f"WarmupConstant.steps must be at least 0, got {steps}")
        self.steps = steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Compute the learning rate of each parameter group at the current step."""
        return [lr * min(1.0, (self.last_epoch + 1) / max(1, self.steps)) for lr in self.base_lrs]
