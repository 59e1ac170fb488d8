"""Alternation: two optimizers that take turns, right under Lightning's manual optimization."""

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.cli import ReduceLROnPlateau as LightningReduceLROnPlateau
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from darkroom.errors import UsageError
from darkroom.lightning_modules.lr_schedulers import WarmupCosine, configure_scheduler, count_fit_steps
from darkroom.lightning_modules.optimizers import Optim, clip_gradients


@dataclass
class AlternatingOptim(Optim):
    """Options of the optimization of a generator and a discriminator that step in turn.

    Args:
        optimizer: of both networks, unless they have their own.
        generator_optimizer, discriminator_optimizer: of one of them.
        gradient_clip_val: largest norm of a network's gradients, above 0; None: any. Instead of the Trainer's.
        accumulate_grad_batches: batches to a step, at least 1. Instead of the Trainer's.

    Raises:
        UsageError: a value is out of its range.
    """

    generator_optimizer: OptimizerCallable | None = None
    discriminator_optimizer: OptimizerCallable | None = None
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = 1

    def __post_init__(self) -> None:
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise UsageError(f"model.optim.gradient_clip_val must be above 0 or null, got {self.gradient_clip_val}")
        if self.accumulate_grad_batches < 1:
            raise UsageError(
                f"model.optim.accumulate_grad_batches must be at least 1, got {self.accumulate_grad_batches}"
            )


class Alternation(LightningModule):
    """Mixed into a technique whose networks have an optimizer each: what Lightning leaves to manual optimization.

    Gradients of ``accumulate_grad_batches`` batches are averaged into one step; what is left at the end of an epoch makes a
    step of fewer. They are clipped after the loss's scale (16-mixed) is taken off. Under DDP a step averages the gradients
    over the ranks, once; so the plain strategy ``ddp`` serves, although a backward pass reaches one network only. Learning
    rates move with every step of their optimizer (WarmupCosine), at the end of an epoch, or, from the first validation on,
    by what they monitor (ReduceLROnPlateau).
    """

    gradient_clip_val: float | None
    accumulate_grad_batches: int

    def configure_callbacks(self) -> list[Any]:
        """None; but this comes before Lightning refuses the Trainer's settings without saying what to use instead."""
        trainer = self.trainer
        if trainer.accumulate_grad_batches == self.accumulate_grad_batches:
            trainer.accumulate_grad_batches = 1  # left there by a fit that was interrupted
        for name, neutral in (("accumulate_grad_batches", 1), ("gradient_clip_val", None)):
            value = getattr(trainer, name)
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
        # Lightning counts steps, logs and keeps gradients over a validation by this.
        self.trainer.accumulate_grad_batches = self.accumulate_grad_batches

    def teardown(self, stage: str) -> None:
        self.trainer.accumulate_grad_batches = 1
        super().teardown(stage)

    def completes_step(self, batch_idx: int) -> bool:
        """Whether the gradients of this batch are the last that a step waits for."""
        return (batch_idx + 1) % self.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def accumulate(self, loss: Tensor) -> None:
        """Adds a loss's gradients to those that wait for the next step."""
        strategy = self.trainer.strategy
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
            self.manual_backward(loss)

    def step(self, optimizer: Any, network: nn.Module, batches: int, counted: bool) -> None:
        """Steps with the mean of what was accumulated, and moves the learning rate if it moves with the steps.

        Args:
            optimizer: one of ``self.optimizers()``.
            network: whose parameters it has.
            batches: how many losses were accumulated.
            counted: whether ``trainer.global_step`` counts it. One optimizer's are, so that max_steps, checkpoints
                and schedules mean the same as everywhere.
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
        """Makes the running statistics of all networks the same on all ranks; no graph may still need them."""
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

    def schedule(
        self, optimizers: list[Optimizer], build: LRSchedulerCallable | None, every: tuple[int, ...]
    ) -> list[dict[str, Any]]:
        """A scheduler for each optimizer, as ``configure_optimizers`` returns them; ``every`` says how many steps of the
        fit each optimizer makes one of.
        """
        if build is None:
            return []
        schedulers = [build(optimizer) for optimizer in optimizers]
        for scheduler, steps in zip(schedulers, every, strict=True):
            if isinstance(scheduler, WarmupCosine):
                scheduler.spread(count_fit_steps(self.trainer, "WarmupCosine") // steps)
        return [configure_scheduler(scheduler) for scheduler in schedulers]

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                self._step_on_plateau(config.scheduler)
            elif config.interval == "epoch":
                # An epoch, or what a resumed run finds left of it, may have no step of one of the optimizers.
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                    config.scheduler.step()

    def _step_on_plateau(self, scheduler: ReduceLROnPlateau) -> None:
        """Tells the scheduler the metric that it monitors, once there was a validation."""
        monitor = scheduler.monitor if isinstance(scheduler, LightningReduceLROnPlateau) else "val/loss"
        known = self.trainer.callback_metrics
        if monitor in known:
            scheduler.step(known[monitor])
        elif any(name.startswith("val/") for name in known):
            raise UsageError(
                f"model.lr_scheduler monitors {monitor}, which the validation has not logged; set its monitor to one of "
                f"{', '.join(known)}"
            )
