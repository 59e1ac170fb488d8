"""Schedules of the learning rate that the papers' recipes need and torch lacks in one piece."""

from collections.abc import Sequence
from typing import ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from darkroom.errors import UsageError


class WarmupSteps(LRScheduler):
    """Linear warm-up to the optimizer's rate, which then drops at milestones; counted in epochs.

    YOLO's (Redmon et al. 2016, section 2.2): from 0.001 to 0.01, then 0.001 from epoch 75 and 0.0001 from epoch 105 on.

    Args:
        optimizer: its learning rate is the peak.
        milestones: epochs from which on the rate is ``factor`` times what it was, in ascending order.
        warmup: epochs until the peak is reached; 0 for none.
        start: the first epoch's rate as a part of the peak, in (0, 1].
        factor: in (0, 1).

    Raises:
        UsageError: for values outside of these ranges.
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
                f"WarmupSteps.milestones is {milestones}, warmup {warmup}; the milestones' epochs ascend, none lies before "
                "the end of the warm-up"
            )
        if not (0 < start <= 1 and 0 < factor < 1):
            raise UsageError(f"WarmupSteps.start is {start}, factor {factor}; start is in (0, 1], factor in (0, 1)")
        self.milestones, self.warmup, self.start, self.factor = milestones, warmup, start, factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        epoch = self.last_epoch
        part = self.start + (1 - self.start) * epoch / self.warmup if epoch < self.warmup else 1.0
        part *= self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        return [lr * part for lr in self.base_lrs]


class WarmupConstant(LRScheduler):
    """Linear warm-up to the optimizer's rate, which then stays; stepped every batch.

    DDPM's (Ho et al. 2020, appendix B, 5,000 steps).

    Args:
        optimizer: its learning rate is the peak.
        steps: of the warm-up; 0 for none.

    Raises:
        UsageError: fewer than 0 steps.
    """

    interval: ClassVar[str] = "step"

    def __init__(self, optimizer: Optimizer, steps: int = 5000) -> None:
        if steps < 0:
            raise UsageError(f"WarmupConstant.steps is {steps}; it is at least 0")
        self.steps = steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [lr * min(1.0, (self.last_epoch + 1) / max(1, self.steps)) for lr in self.base_lrs]
