"""Technique: what every technique shares: optimizer, scheduler, names of metrics, and a loss that must stay finite."""

import math
from collections import ChainMap
from collections.abc import Mapping
from functools import partial
from inspect import currentframe
from typing import Any, ClassVar, get_args

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.parsing import collect_init_args
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from darkroom.errors import TrainingError, UsageError
from darkroom.lightning_modules.utils.fsdp import mesh_of, shard


def is_plain(value: Any) -> bool:
    """Whether a value is None, a number, a string, or a tuple, list or dict of such: what a checkpoint remembers.

    Built by the command line every argument is (class_path and init_args). Built in Python some are objects, which stay
    out: pass them to load_from_checkpoint again.
    """
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return isinstance(value, bool | int | float | str | None)


def one_of(key: str, value: str, choices: Any) -> str:
    """The value, if it is one of a Literal's choices, which only the command line checks by itself.

    Raises:
        UsageError: it is not; names the key, such as ``model.loss``.
    """
    if value not in get_args(choices):
        raise UsageError(f"{key} is {value!r}; choose one of {', '.join(get_args(choices))}")
    return value


def steps_of_fit(trainer: Trainer, needed_by: str) -> int:
    """How many optimizer steps the whole fit has.

    Raises:
        UsageError: it has no end; names what needs to know it.
    """
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise UsageError(f"{needed_by} needs to know how long the fit is: set trainer.max_epochs or max_steps")
    return int(steps)


def clip_gradients(module: LightningModule, optimizer: Optimizer, value: float | None, algorithm: str = "norm") -> None:
    """Clips the gradients of an optimizer's parameters, fused optimizers' too, once the loss's scale is taken off.

    Args:
        module: whose Trainer's precision says whether there is a scale (16-mixed).
        optimizer: about to step.
        value: largest norm of all gradients together, or largest value of each; None or 0: nothing is clipped.
        algorithm: norm or value.
    """
    if not value:
        return
    precision = module.trainer.precision_plugin
    clip = precision.clip_gradients
    if isinstance(precision, MixedPrecision):
        # Lightning refuses optimizers that take off the scale themselves, whether there is one or not.
        clip = super(MixedPrecision, precision).clip_gradients
        if precision.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            precision.scaler.unscale_(optimizer)
    clip(optimizer, value, GradClipAlgorithmType(algorithm))


class WarmupCosine(LRScheduler):
    """Linear warm-up, then half a cosine down to zero, over the whole fit, stepped every batch.

    Args:
        optimizer: its learning rate is the peak.
        warmup: part of the fit that warms up, in [0, 1).
    """

    interval: ClassVar[str] = "step"

    def __init__(self, optimizer: Optimizer, warmup: float = 0.05) -> None:
        if not 0 <= warmup < 1:
            raise UsageError(f"WarmupCosine.warmup is {warmup}; it is a part of the fit, in [0, 1)")
        self.warmup, self.total_steps = warmup, 1
        super().__init__(optimizer)

    def spread(self, total_steps: int) -> None:
        """Stretches the schedule over this many steps; called before the first one, also when a run is continued."""
        self.total_steps = total_steps
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def get_lr(self) -> list[float]:
        done = min(1.0, (self.last_epoch + 1) / (self.total_steps + 1))
        cosine = (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2
        return [lr * (done / self.warmup if done < self.warmup else cosine) for lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}


class Technique(LightningModule):
    """Base of all techniques. A subclass keeps its network as ``self.network``, or names several in ``networks``, and ends
    ``training_step`` with ``return self.log_loss(terms)``.

    Args:
        optimizer: builds the optimizer from parameters; default AdamW, lr 1e-3, fused.
        lr_scheduler: builds a scheduler from the optimizer; ours that count steps (``WarmupCosine``, ``WarmupConstant``)
            step every batch, all others every epoch. None keeps the rate constant.
        channels_last: keep the network's weights and images in NHWC order: a gain for most convolutional networks.
        compile_network: ``torch.compile`` the network; pays on a GPU with fixed sizes, not on a CPU.
    """

    network: nn.Module
    # Arguments that say where the first weights came from. A checkpoint of ours does without them, and forgets them.
    starts_from: ClassVar[tuple[str, ...]] = ()
    # What best.ckpt is the best by, and whether least or most is, unless the config's checkpoint.monitor says so.
    monitor: ClassVar[tuple[str, str]] = ("val/loss", "min")
    trained_steps = 0  # of the checkpoint that was loaded

    def __init__(
        self,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        channels_last: bool = False,
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        arguments = collect_init_args(currentframe(), [], classes=(LightningModule,))  # of all classes, outermost last
        objects = [name for name, value in ChainMap(*arguments[::-1]).items() if not is_plain(value)]
        self.save_hyperparameters(ignore=None if _given_hyperparameters.get() else objects)
        for name in self.starts_from:
            self.hparams.pop(name, None)
        self._optimizer = optimizer or partial(torch.optim.AdamW, lr=1e-3, fused=True)
        self._lr_scheduler = lr_scheduler
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.compile_network = compile_network
        # The running loss: sums over _count batches of each term, and what the device has not yet been asked for.
        self._terms: list[str] = []
        self._sums: list[float] = []
        self._count = 0
        self._pending: list[list[Tensor]] = []
        self._places: list[tuple[int, int]] = []
        self._first_bad: tuple[int, int] | None = None

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._lr_scheduler is None:
            return optimizer
        scheduler = self._lr_scheduler(optimizer)
        if isinstance(scheduler, WarmupCosine):
            scheduler.spread(steps_of_fit(self.trainer, "WarmupCosine"))
        monitor = getattr(scheduler, "monitor", "val/loss")  # only ReduceLROnPlateau looks at it
        rhythm = {"interval": getattr(scheduler, "interval", "epoch"), "monitor": monitor}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **rhythm}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm or "norm")

    def networks(self) -> list[nn.Module]:
        """What is laid out in memory, and compiled, as a whole."""
        return [self.network]

    def shards(self) -> list[nn.Module]:
        """What is divided among ranks, each called by ``forward`` alone: with it, all that trains."""
        raise UsageError(
            f"{type(self).__name__} is not divided among GPUs; every one holds all of it: use --config "
            "configs/trainer/ddp.yaml in the place of fsdp.yaml"
        )

    def configure_model(self) -> None:
        mesh = mesh_of(self)
        if mesh is not None and self.compile_network:
            raise UsageError(
                "model.compile_network is true, but what is divided among GPUs is not compiled; set it to false"
            )
        for module in [] if mesh is None else self.shards():
            shard(module, mesh, bfloat16=self.trainer.precision == "bf16-mixed")

    def setup(self, stage: str) -> None:
        for network in self.networks():
            if not isinstance(network, FSDPModule):
                network.to(memory_format=self.memory_format)
            if self.compile_network:
                network.compile()

    def on_fit_start(self) -> None:
        # All ranks were given the same seed, for the same first weights; the noise they draw from now on must differ.
        if self.trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_start(self) -> None:
        # Fused optimizers take their states to lie in memory as the weights do; a checkpoint's lie as its weights did.
        for optimizer in self.trainer.optimizers:
            for weight, states in optimizer.state.items():
                for name, value in states.items():
                    if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                        states[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes here which hook it calls, dozens of times a step; nn.Module's way takes 3 us each.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # --- the loss: kept on the device, logged seldom, watched always --------------------------------------------------

    def log_loss(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """Keeps a training batch's scalar loss terms on the device and returns ``terms["loss"]``, with its graph, or
        None where there is no one loss (two networks that play against each other).

        Their means are logged as ``train/<term>`` every ``log_every_n_steps`` steps and at the end of the epoch; nothing
        waits for the device in between. A loss that is not finite stops the training at the next of these moments, and
        before any checkpoint is written, with a TrainingError that names the batch it began with.
        """
        loop, trainer = self.trainer.fit_loop, self.trainer
        if list(terms) != self._terms:
            self._fold()
            self._terms, self._sums, self._count = list(terms), [0.0] * len(terms), 0
        self._pending.append([value.detach() for value in terms.values()])
        self._places.append((self.current_epoch, loop.batch_idx))

        every = trainer.log_every_n_steps
        steps_now = (loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if every and steps_now and (loop.epoch_loop._batches_that_stepped + 1) % every == 0:
            self._log_means(on_step=True)
        elif len(self._pending) == 1000:
            self._fold()
        return terms.get("loss")

    def log_evaluation(self, values: Mapping[str, Tensor], samples: int) -> None:
        """Logs means over a batch of a validation or test by their full names: over the epoch, and over all ranks, every
        sample counts alike.
        """
        # A float, because Lightning takes the mean of the ranks' numbers of samples, and of whole ones rounds it down.
        self.log_dict(values, on_epoch=True, batch_size=float(samples), sync_dist=self.trainer.world_size > 1)

    def on_train_epoch_end(self) -> None:
        self._log_means(on_step=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._fold()
        self._check_weights()
        checkpoint["running_loss"] = {"terms": self._terms, "sums": self._sums, "count": self._count}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_steps = checkpoint.get("global_step", 0)
        running = checkpoint.get("running_loss")
        if running:
            sums = dict(zip(running["terms"], map(float, running["sums"]), strict=True))
            self._terms, self._sums, self._count = list(sums), list(sums.values()), int(running["count"])

    def _log_means(self, on_step: bool) -> None:
        self._fold()
        if not self._count:
            return
        means = {name: total / self._count for name, total in zip(self._terms, self._sums, strict=True)}
        self._sums, self._count = [0.0] * len(self._terms), 0
        when = {"on_step": on_step, "on_epoch": not on_step, "sync_dist": self.trainer.world_size > 1}
        # The bar has room for the loss; without one, for what there is.
        shown = {"loss"} & means.keys() or {name for name in means if name.endswith("_loss")}
        for wanted, names in ((True, shown), (False, means.keys() - shown)):
            values = {f"train/{name}": mean for name, mean in means.items() if name in names}
            if values:
                self.log_dict(values, prog_bar=wanted, **when)

    def _check_weights(self) -> None:
        """Keeps weights that are not finite out of checkpoints: a step can break them whose loss still was finite."""
        parts = [(name, part) for name, part in self.named_parameters() if part.is_floating_point()]
        shards = [part.to_local() if isinstance(part, DTensor) else part for _, part in parts]
        finite = torch.stack([shard.isfinite().all() for shard in shards] or [torch.tensor(True)]).tolist()
        broken = not all(finite)
        if self.trainer.world_size > 1:
            broken = self.trainer.strategy.reduce_boolean_decision(broken, all=False)
        if broken:
            names = [name for (name, _), sound in zip(parts, finite, strict=True) if not sound] or ["of another rank"]
            raise TrainingError(
                f"weights are not finite ({names[0]}, {len(names)} in all) after step {self.trainer.global_step}; they are "
                "not saved, and the checkpoint before is whole. Lower the learning rate or set a gradient_clip_val"
            )

    def _fold(self) -> None:
        """Adds what is pending to the sums, waiting for the device once, and stops if it is not finite, on all ranks."""
        pending, places = self._pending, self._places
        self._pending, self._places = [], []
        bad: list[int] = []
        if pending:
            values = torch.stack([torch.stack([v.float() for v in terms]) for terms in pending]).cpu().double()
            self._sums = [total + new for total, new in zip(self._sums, values.sum(0).tolist(), strict=True)]
            self._count += len(pending)
            bad = (~values.isfinite().all(1)).nonzero().flatten().tolist()
        if bad and self._first_bad is None:
            self._first_bad = places[bad[0]]
        if self.trainer.world_size > 1:
            anywhere = self.trainer.strategy.reduce_boolean_decision(self._first_bad is not None, all=False)
            if anywhere and self._first_bad is None:
                raise TrainingError("the loss is not finite on another rank; its message names the batch")
        if self._first_bad is not None:
            epoch, batch_idx = self._first_bad
            describe = getattr(self.trainer.datamodule, "describe_batch", None)
            samples = f": {describe(epoch, batch_idx)}" if describe else ""
            clip = "trainer" if self.automatic_optimization else "model"
            raise TrainingError(
                f"the loss is not finite since batch {batch_idx} of epoch {epoch}{samples}. Look at these samples; if they "
                f"are sound, lower the learning rate or set {clip}.gradient_clip_val"
            )
