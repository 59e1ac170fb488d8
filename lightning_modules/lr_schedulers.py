"""Learning rate schedules that the papers' recipes need and torch lacks in one piece."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau as LightningReduceLROnPlateau
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from darkroom.errors import UsageError

Interval = Literal["step", "epoch"]


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


class SteppedScheduler(LRScheduler):
    """Base of our schedulers that count optimizer steps."""


# Counts steps by their documentation; torch's others count whatever they are stepped by.
_COUNT_STEPS = (SteppedScheduler, CyclicLR, OneCycleLR)
# Argument that states after how many of them a scheduler changes the rate.
_COUNTS: dict[type[LRScheduler], str] = {
    StepLR: "step_size",
    MultiStepLR: "milestones",
    ConstantLR: "total_iters",
    LinearLR: "total_iters",
    PolynomialLR: "total_iters",
    CosineAnnealingLR: "T_max",
    CosineAnnealingWarmRestarts: "T_0",
}


def build_scheduler(
    optimizer: Optimizer,
    build: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau],
    trainer: Trainer,
    interval: Interval | None = None,
    every: int = 1,
) -> dict[str, Any]:
    """Build the scheduler of an optimizer, as ``configure_optimizers`` returns it.

    Args:
        optimizer: whose learning rate is scheduled.
        build: builds the scheduler.
        trainer: of the fit.
        interval: what the scheduler's arguments count; None: steps for ``WarmupCosine``, ``WarmupConstant``, CyclicLR and
            OneCycleLR, epochs for all others.
        every: number of steps of the fit for each step of the optimizer.

    Raises:
        UsageError: the scheduler cannot count in this interval.
    """
    scheduler = build(optimizer)
    config: dict[str, Any] = {"scheduler": scheduler, "interval": interval or "epoch"}
    if isinstance(scheduler, ReduceLROnPlateau):
        if interval == "step":
            raise UsageError(f"model.optim.lr_interval must be epoch for {type(scheduler).__name__}, got step")
        if isinstance(scheduler, LightningReduceLROnPlateau):
            config["monitor"] = scheduler.monitor
        return config
    if isinstance(scheduler, SteppedScheduler) and interval == "epoch":
        raise UsageError(f"model.optim.lr_interval must be step for {type(scheduler).__name__}, got epoch")
    if isinstance(scheduler, _COUNT_STEPS):
        config["interval"] = interval or "step"
    elif interval is None:
        _require_epochs(scheduler, trainer)
    if isinstance(scheduler, OneCycleLR) and config["interval"] == "step":
        _require_whole_fit(scheduler, count_fit_steps(trainer, "OneCycleLR") // every)
    if isinstance(scheduler, WarmupCosine):
        scheduler.spread(count_fit_steps(trainer, "WarmupCosine") // every)
    return config


def _require_epochs(scheduler: LRScheduler, trainer: Trainer) -> None:
    """Raise a UsageError if a scheduler's count is beyond the last epoch, but within the steps of the fit."""
    name = next((name for kind, name in _COUNTS.items() if type(scheduler) is kind), None)
    if name is None or trainer.max_epochs is None or trainer.max_epochs < 1:
        return
    value = vars(scheduler)[name]
    count = min(value, default=0) if name == "milestones" else value
    if count <= trainer.max_epochs:
        return
    steps = trainer.estimated_stepping_batches
    if steps / trainer.max_epochs < count <= steps < math.inf:
        raise UsageError(
            f"model.optim.lr_scheduler: {type(scheduler).__name__}.{name} is {count}, but the fit has {trainer.max_epochs} "
            f"epochs, and {steps:.0f} steps; set model.optim.lr_interval to what it counts, step or epoch"
        )


def _require_whole_fit(scheduler: OneCycleLR, steps: int) -> None:
    if scheduler.total_steps < steps:
        raise UsageError(
            f"model.optim.lr_scheduler: OneCycleLR.total_steps must be at least {steps}, the steps of the fit, got "
            f"{scheduler.total_steps}"
        )


class WarmupCosine(SteppedScheduler):
    """Linear warm-up, then half a cosine down to zero, over the whole fit, stepped every batch.

    Args:
        optimizer: its learning rate is the peak.
        warmup: fraction of the fit that warms up, in [0, 1).
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.05) -> None:
        if not 0 <= warmup < 1:
            raise UsageError(f"WarmupCosine.warmup must be a fraction in [0, 1), got {warmup}")
        self.warmup, self.total_steps = warmup, 1
        super().__init__(optimizer)

    def spread(self, total_steps: int) -> None:
        """Stretch the schedule over this many steps; must be called before the first one, also when a run resumes."""
        self.total_steps = total_steps
        self._set_rates()

    def _set_rates(self) -> None:
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._set_rates()  # the optimizer's state has the rate of a fit of the earlier length


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


class WarmupConstant(SteppedScheduler):
    """Linear warm-up to the optimizer's rate, which then stays constant; stepped every batch.

    DDPM's (Ho et al. 2020, the authors' code: 5,000 steps).

    Args:
        optimizer: its learning rate is the peak.
        steps: number of steps of the warm-up; 0 for none.

    Raises:
        UsageError: the number is negative.
    """

    def __init__(self, optimizer: Optimizer, steps: int = 5000) -> None:
        if steps < 0:
            raise UsageError(f"WarmupConstant.steps must be at least 0, got {steps}")
        self.steps = steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Compute the learning rate of each parameter group at the current step."""
        return [lr * min(1.0, (self.last_epoch + 1) / max(1, self.steps)) for lr in self.base_lrs]
