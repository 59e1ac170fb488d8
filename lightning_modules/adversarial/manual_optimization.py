"""ManualOptimization: mixin for methods with several optimizers that step in turn."""

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.cli import ReduceLROnPlateau as LightningReduceLROnPlateau
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.optimizers import Optim, clip_gradients


@dataclass
class AlternatingOptim(Optim):
    """Options of the optimization of a generator and a discriminator that step in turn.

    Args:
        optimizer: of both networks, unless they have their own.
        generator_optimizer, discriminator_optimizer: of one of them.
        gradient_clip_val: largest norm of a network's gradients, above 0; None: any. Instead of the Trainer's.
        accumulate_grad_batches: batches to a step, at least 1. Instead of the Trainer's.
        r1_interval: number of the discriminator's steps to one with R1, at least 1. R1 is then multiplied by this number
            (lazy regularization; Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 3.1).
            Other than there, R1 is added to the loss of its step, and the settings of Adam do not change.

    Raises:
        UsageError: a value is out of its range.
    """

    generator_optimizer: OptimizerCallable | None = None
    discriminator_optimizer: OptimizerCallable | None = None
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = 1
    r1_interval: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise UsageError(f"model.optim.gradient_clip_val must be above 0 or null, got {self.gradient_clip_val}")
        counts = {"accumulate_grad_batches": self.accumulate_grad_batches, "r1_interval": self.r1_interval}
        for name, count in counts.items():
            if count < 1:
                raise UsageError(f"model.optim.{name} must be at least 1, got {count}")


if TYPE_CHECKING:  # a mixin: every method that inherits from it is also a Technique
    _Base = Technique
else:
    _Base = LightningModule


class ManualOptimization(_Base):
    """Mixin for methods whose networks have an optimizer each, with the features that Lightning leaves to such modules.

    - Gradients of ``accumulate_grad_batches`` batches are averaged; the last step of an epoch may have fewer.
    - Gradients are unscaled (16-mixed) and then clipped.
    - Under DDP each step averages gradients over the ranks once, so strategy ``ddp`` is sufficient, although a backward
      pass reaches only one network.
    - Learning rates change with every step of their optimizer (WarmupCosine), at the end of an epoch, or by a monitored
      metric from the first validation on (ReduceLROnPlateau).

    Attributes:
        steps_per_cycle: number of steps, counted by ``trainer.global_step``, after which the work of the steps repeats.
    """

    gradient_clip_val: float | None
    accumulate_grad_batches: int
    steps_per_cycle: int = 1

    def configure_callbacks(self) -> list[Any]:
        """Check the Trainer's settings: Lightning raises later, and does not name the options of ``model.optim``."""
        trainer = self.trainer
        if trainer.accumulate_grad_batches == self.accumulate_grad_batches:
            trainer.accumulate_grad_batches = 1  # left by an interrupted fit
        for name, value, neutral in (
            ("accumulate_grad_batches", trainer.accumulate_grad_batches, 1),
            ("gradient_clip_val", trainer.gradient_clip_val, None),
        ):
            if value != neutral:
                raise UsageError(
                    f"trainer.{name} is {value}, but {type(self).__name__} has two optimizers, which the Trainer does not "
                    f"step; use model.optim.{name} instead"
                )
        return []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy) and not isinstance(strategy, DDPStrategy):
            raise UsageError(
                f"trainer.strategy is {type(strategy).__name__}, but {type(self).__name__} has two networks that step in "
                "turn; use ddp"
            )
        # Lightning uses this to count steps, to log, and to preserve gradients during a validation.
        self.trainer.accumulate_grad_batches = self.accumulate_grad_batches

    def teardown(self, stage: str) -> None:
        self.trainer.accumulate_grad_batches = 1
        super().teardown(stage)

    def completes_step(self, batch_idx: int) -> bool:
        """Return whether the gradients of this batch complete those of a step."""
        return (batch_idx + 1) % self.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def accumulate(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the next step."""
        strategy = self.trainer.strategy
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
            self.manual_backward(loss)

    def step(self, optimizer: Any, network: nn.Module, batches: int, counted: bool) -> None:
        """Step with the mean of the accumulated gradients, and update a learning rate that changes with steps.

        Args:
            optimizer: one of ``self.optimizers()``.
            network: that it optimizes.
            batches: number of accumulated losses.
            counted: ``trainer.global_step`` counts the step. Only the steps of one optimizer count, so that max_steps,
                checkpoints and schedules mean the same as for other methods.
        """
        self._average(network, batches)
        if counted:
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None, model=self)
        optimizer.zero_grad()
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step" and config.scheduler.optimizer is optimizer.optimizer:
                config.scheduler.step()

    def _average(self, network: nn.Module, batches: int) -> None:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if batches > 1:
            torch._foreach_div_(gradients, batches)
        self._average_over_ranks(gradients)

    def average_statistics(self) -> None:
        """Average the running statistics of all networks over the ranks; no graph may still need them."""
        buffers = [buffer for network in self.networks() for buffer in network.buffers()]
        self._average_over_ranks([buffer for buffer in buffers if buffer.is_floating_point()])

    @torch.no_grad()
    def _average_over_ranks(self, tensors: list[Tensor]) -> None:
        if self.trainer.world_size == 1 or not tensors:
            return
        flat = self.trainer.strategy.reduce(torch.cat([t.flatten() for t in tensors]), reduce_op="mean")
        for mine, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            mine.copy_(mean.view_as(mine))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        clip_gradients(self, optimizer, self.gradient_clip_val)

    def build_schedulers(
        self, optimizers: list[Optimizer], optim: Optim, every: tuple[int, ...]
    ) -> list[dict[str, Any]]:
        """Build a scheduler for each optimizer, as ``configure_optimizers`` returns them.

        Args:
            optimizers: of the networks.
            optim: has the scheduler.
            every: number of steps of the fit for each step of an optimizer.
        """
        pairs = zip(optimizers, every, strict=True)
        built = [optim.build_scheduler(optimizer, self, steps) for optimizer, steps in pairs]
        return [scheduler for scheduler in built if scheduler is not None]

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                self._step_on_plateau(config.scheduler)
            elif config.interval == "epoch":
                # An epoch, or the rest of it in a resumed run, may have no step of one of the optimizers.
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                    config.scheduler.step()

    def _step_on_plateau(self, scheduler: ReduceLROnPlateau) -> None:
        """Step a scheduler by its monitored metric, once there was a validation."""
        monitor = scheduler.monitor if isinstance(scheduler, LightningReduceLROnPlateau) else "val/loss"
        logged = self.trainer.callback_metrics
        if monitor in logged:
            scheduler.step(float(logged[monitor]))
        elif any(name.startswith("val/") for name in logged):
            raise UsageError(
                f"model.optim.lr_scheduler monitors {monitor}, which the validation does not log; set its monitor to one "
                f"of {', '.join(logged)}"
            )
