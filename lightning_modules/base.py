"""Technique: base of all methods, with optimizer, schedule, running loss, memory layout and sharding."""

from collections.abc import Mapping, Sequence
from functools import partial
from inspect import currentframe
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from darkroom.lightning_modules.fine_tuning import FineTuning
from darkroom.lightning_modules.optimizers import Optim, align_optimizer_states, clip_gradients
from darkroom.lightning_modules.running_loss import RunningLoss, require_finite_weights
from darkroom.lightning_modules.training_record import record_training, require_samples_per_step
from darkroom.lightning_modules.utils.arguments import (
    build_options,
    declared_names,
    save_arguments,
    without_initial_weights,
)
from darkroom.lightning_modules.utils.check_batch import check_first_batch
from darkroom.lightning_modules.utils.fsdp import is_sharded, refuse_sharding, shard_module
from darkroom.lightning_modules.utils.initial_weights import StartsFromFile
from darkroom.lightning_modules.utils.normalization import Statistics, check_normalization
from darkroom.lightning_modules.utils.old_checkpoints import with_todays_names
from darkroom.runtime.lightning_compat import datamodule_of


class Technique(LightningModule, metaclass=StartsFromFile):
    """Base of all methods. A subclass keeps its network as ``self.network``, or lists several in ``networks``, and ends
    ``training_step`` with ``return self.log_loss(terms)``.

    Args:
        optim: optimizer, schedule, fine-tuning, memory layout.
        init_from: checkpoint of any method with the same layers, or state dict, to start from; other layers begin afresh.
    """

    network: nn.Module
    default_optimizer: ClassVar[OptimizerCallable] = partial(torch.optim.AdamW, lr=1e-3, fused=True)
    # Arguments that name the source of the initial weights; not in checkpoints. Added to those of the bases.
    initial_weight_arguments: ClassVar[tuple[str, ...]] = ("init_from",)
    # Arguments, or options of their groups, that may differ from those of the training; added to those of the bases.
    free_arguments: ClassVar[tuple[str, ...]] = ("optim",)
    # Entries of every batch, with their types.
    needs: ClassVar[Mapping[str, type]] = {"image": Tensor}
    # Metric and mode, min or max, that select best.ckpt, unless the config sets checkpoint.monitor.
    monitor: ClassVar[tuple[str, str]] = ("val/loss", "min")
    trained_steps = 0  # of the checkpoint that was loaded
    _samples_per_step: int | None = None  # when the checkpoint was written
    own_normalization: Statistics | None = None  # see ``Normalized``
    expected_normalization: Statistics | None = None
    step_schedules: Sequence[type] = ()  # schedules of the method that count optimizer steps

    def __init__(self, optim: Optim | None = None, init_from: str | None = None) -> None:
        super().__init__()
        save_arguments(self, currentframe(), leave_out=declared_names(type(self), "initial_weight_arguments"))
        self.optim, self.init_from = build_options(Optim, optim), init_from
        self.running_loss, self.fine_tuning = RunningLoss(), FineTuning(self.optim)
        self.memory_format = self.optim.memory_format

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a trained model as LightningModule does, also from a checkpoint of the previous version."""
        return super().load_from_checkpoint(with_todays_names(checkpoint_path, cls.__name__), *args, **kwargs)

    def configure_optimizers(self) -> Any:
        optimizer = self.fine_tuning.build_optimizer(self, self.build_optimizer, self)
        scheduler = self.optim.build_scheduler(optimizer, self)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    def build_optimizer(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        """Build the optimizer of these parameters."""
        return (self.optim.optimizer or type(self).default_optimizer)(parameters)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm or "norm")

    def networks(self) -> list[nn.Module]:
        """Return the modules that are laid out in memory, and compiled, as a whole."""
        return [self.network]

    def shards(self) -> list[nn.Module]:
        """Return the modules that are sharded among ranks: each called by ``forward`` alone, with all that trains."""
        return refuse_sharding(self)

    def configure_model(self) -> None:
        shard_module(self, self.shards, compiled=self.optim.compile)

    def setup(self, stage: str) -> None:
        check_normalization(self, stage, datamodule_of(self.trainer))
        for network in self.networks():
            if not is_sharded(network):
                network.to(memory_format=self.memory_format)
            self.optim.compile_in_place(network)

    def on_fit_start(self) -> None:
        # All ranks were given the same seed, for the same first weights; their noise must differ from now on.
        if self.trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_start(self) -> None:
        align_optimizer_states(self.trainer.optimizers)
        require_samples_per_step(self.trainer, self._samples_per_step, self.step_schedules)
        self.fine_tuning.begin_epoch(self)

    def on_train_epoch_start(self) -> None:
        self.fine_tuning.begin_epoch(self)

    def train(self, mode: bool = True) -> Self:
        """Set training mode or eval mode; batch norms that fine-tuning keeps constant stay in eval mode."""
        super().train(mode)
        self.fine_tuning.keep_constant(self)
        return self

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = check_first_batch

    def log_loss(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """Add a batch's scalar loss terms to the running loss; return ``terms["loss"]``, None for manual optimization.

        Means are logged as ``train/<term>`` every ``log_every_n_steps`` steps and at the end of an epoch. A loss that is
        not finite raises a TrainingError at the next of these moments, and before any checkpoint is written.
        """
        self.running_loss.add(self, terms)
        return terms.get("loss")

    def log_evaluation(self, values: Mapping[str, Tensor], samples: int) -> None:
        """Log means over a batch of validation or test, by their full names; every sample of all ranks counts alike."""
        # A float, because Lightning averages the ranks' numbers of samples and rounds integers down.
        self.log_dict(values, on_epoch=True, batch_size=float(samples), sync_dist=self.trainer.world_size > 1)  # type: ignore[arg-type]  # an int is asked for

    def on_train_epoch_end(self) -> None:
        self.running_loss.log(self, on_step=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.running_loss.fold(self)
        require_finite_weights(self)
        checkpoint |= {"running_loss": self.running_loss.state_dict()} | record_training(self.trainer, self)
        checkpoint["hyper_parameters"] = without_initial_weights(checkpoint.get("hyper_parameters", {}))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_steps = checkpoint.get("global_step", 0)
        self._samples_per_step = checkpoint.get("samples_per_step")
        self.fine_tuning.layers = tuple(checkpoint.get("pretrained_layers", self.fine_tuning.layers))
        if checkpoint.get("running_loss"):
            self.running_loss.load_state_dict(checkpoint["running_loss"])
