"""Options of the optimization, gradient clipping, and optimizers that the papers' recipes need and torch lacks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer

from darkroom.errors import UsageError
from darkroom.lightning_modules.cuda_graphs import copy_outputs
from darkroom.lightning_modules.lr_schedulers import Interval, build_scheduler

CompileMode: TypeAlias = Literal["default", "reduce-overhead", "max-autotune"]


@dataclass
class Optim:
    """Options of the optimization, and of the network's weights in memory.

    Args:
        optimizer: builds the optimizer from parameters; None: the method's own, by default AdamW, lr 1e-3, fused.
        lr_scheduler: builds a scheduler from the optimizer. None keeps the rate constant.
        lr_interval: what the scheduler's arguments count, step or epoch; None: steps for ``WarmupCosine``,
            ``WarmupConstant``, CyclicLR and OneCycleLR, epochs for all others.
        channels_last: keep the network's weights and images in NHWC order: a gain for most convolutional networks.
        compile: ``torch.compile`` the network; pays on a GPU with fixed sizes, not on a CPU.
        compile_mode: default, for batches of any size; reduce-overhead: CUDA graphs, for small batches of fixed size whose
            time is that of launching kernels; max-autotune: also times several kernels for each operation at the start.
            The last two keep the memory of a graph for every size that occurs.
        backbone_lr: factor above 0 on the learning rate of the pretrained layers, those that ``init_from`` or ``weights``
            loaded. All other layers have the full rate.
        freeze_epochs: the pretrained layers are frozen in this number of epochs, at least 0, of the start of the fit: their
            weights are constant, and their batch norms are in eval mode. The schedule counts these epochs too.
        freeze_layers: number of first pretrained convolutions that are frozen in the whole fit, with the batch norms after
            them. They detect edges and colours, which many images have, and their large maps are the slowest to train.
        freeze_batch_norm: the batch norms of the pretrained layers have constant statistics and factors in the whole fit.

    Raises:
        UsageError: a value is out of its range.
    """

    optimizer: OptimizerCallable | None = None
    lr_scheduler: LRSchedulerCallable | None = None
    lr_interval: Interval | None = None
    channels_last: bool = False
    compile: bool = False
    compile_mode: CompileMode = "default"
    backbone_lr: float = 1.0
    freeze_epochs: int = 0
    freeze_layers: int = 0
    freeze_batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.compile_mode not in get_args(CompileMode):
            raise UsageError(
                f"model.optim.compile_mode must be one of {', '.join(get_args(CompileMode))}, got {self.compile_mode}"
            )
        if not self.backbone_lr > 0:
            raise UsageError(
                f"model.optim.backbone_lr must be above 0, got {self.backbone_lr}; to keep pretrained layers constant, set "
                "model.optim.freeze_epochs to the number of epochs"
            )
        for name, value in (("freeze_epochs", self.freeze_epochs), ("freeze_layers", self.freeze_layers)):
            if value < 0:
                raise UsageError(f"model.optim.{name} must be at least 0, got {value}")

    @property
    def treats_pretrained_layers(self) -> bool:
        """True if pretrained layers are trained in another way than those that begin afresh."""
        return self.backbone_lr != 1 or self.freeze_epochs > 0 or self.freeze_layers > 0 or self.freeze_batch_norm

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def compile_in_place(self, network: nn.Module) -> None:
        """Compile a network, whose weights keep their names, if ``compile`` is set."""
        if self.compile:
            network.compile(mode=self.compile_mode)
            if self.compile_mode != "default":
                copy_outputs(network)

    def build_scheduler(self, optimizer: Optimizer, module: LightningModule, every: int = 1) -> dict[str, Any] | None:
        """Build the scheduler of an optimizer, as ``configure_optimizers`` returns it; None for a constant rate.

        Args:
            optimizer: whose learning rate is scheduled.
            module: in its fit.
            every: number of steps of the fit for each step of the optimizer.
        """
        if self.lr_scheduler is None:
            return None
        own_rates = len(_rates(optimizer)) > 1
        config = build_scheduler(optimizer, self.lr_scheduler, module.trainer, self.lr_interval, every)
        if own_rates and len(_rates(optimizer)) == 1:
            raise UsageError(
                f"model.optim.lr_scheduler: {type(config['scheduler']).__name__} gives all layers one rate, but some have "
                "their own (model.optim.backbone_lr, new_layer_factor, CaffeSGD); use WarmupCosine or another scheduler "
                "that multiplies the rates"
            )
        return config


def _rates(optimizer: Optimizer) -> set[float]:
    """Return the learning rates of an optimizer's groups, except 0, of which every multiple is 0."""
    return {float(group["lr"]) for group in optimizer.param_groups} - {0.0}


def build_in_groups(
    build: Callable[[Sequence[nn.Parameter]], Optimizer], parts: Iterable[tuple[str, float, Sequence[nn.Parameter]]]
) -> Optimizer:
    """Build one optimizer of parameters whose learning rates differ.

    Args:
        build: builds an optimizer of parameters, perhaps in groups.
        parts: name of the groups, under which their rates are logged, or ""; factor on their learning rates; parameters.
            Parts without parameters are left out.
    """
    joined: Optimizer | None = None
    for name, factor, parameters in parts:
        if not parameters:
            continue
        optimizer = build(parameters)
        several = len(optimizer.param_groups) > 1
        for number, group in enumerate(optimizer.param_groups, 1):
            group["lr"] = factor * group["lr"]
            if name:
                group["name"] = f"{name}{number}" if several else name
            if joined is not None:
                joined.add_param_group(group)
        joined = joined or optimizer
    return joined or build([])


def clip_gradients(module: LightningModule, optimizer: Optimizer, value: float | None, algorithm: str = "norm") -> None:
    """Clip the gradients of an optimizer's parameters, fused optimizers' too, after unscaling them.

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
        # Lightning rejects optimizers that unscale gradients themselves, even without a scale.
        clip = super(MixedPrecision, precision).clip_gradients
        if precision.scaler is not None and supports_amp_scaling(optimizer):
            precision.scaler.unscale_(optimizer)
    clip(optimizer, value, GradClipAlgorithmType(algorithm))


def supports_amp_scaling(optimizer: Optimizer) -> bool:
    """Return whether an optimizer's step unscales the gradients itself, as fused ones do."""
    return "_step_supports_amp_scaling" in vars(optimizer) or "_step_supports_amp_scaling" in vars(type(optimizer))


@torch.no_grad()
def align_optimizer_states(optimizers: Iterable[Optimizer]) -> None:
    """Lay optimizer states out in memory as their weights: fused optimizers rely on it, a checkpoint's may differ."""
    for optimizer in optimizers:
        for weight, states in optimizer.state.items():
            for name, value in states.items():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                    states[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


class CaffeSGD(torch.optim.SGD):
    """SGD of the Caffe recipes of FCN, R-CNN and dilated convolutions: biases have a higher rate and no weight decay.

    "Doubled learning rate for biases" (Long, Shelhamer, Darrell 2015, section 4.3); the missing weight decay is in the
    authors' Caffe definitions (``lr_mult: 2``, ``decay_mult: 0``). Biases are the parameters with one dimension, including
    the factors of batch norms. Two parameter groups: weights, biases.

    The step is torch's, whose rate multiplies the velocity; Caffe's velocity includes the rate. Both are the same for a
    constant rate; after a change Caffe's velocity still contains the old rate.

    Args:
        params: parameters (not groups of them).
        lr: learning rate of the weights.
        momentum: fraction of the velocity that the next step keeps.
        weight_decay: L2 penalty of the weights.
        bias_lr_factor: the biases' learning rate is this times ``lr``.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        bias_lr_factor: float = 2.0,
    ) -> None:
        if bias_lr_factor < 0:
            raise UsageError(f"CaffeSGD.bias_lr_factor must be 0 (constant biases) or more, got {bias_lr_factor}")
        params = list(params)
        weights, biases = [p for p in params if p.ndim != 1], [p for p in params if p.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": weights},
            {"params": biases, "lr": bias_lr_factor * lr, "weight_decay": 0.0},
        ]
        super().__init__(groups, lr, momentum, weight_decay=weight_decay)
