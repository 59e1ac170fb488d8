"""One training step of a method without a Trainer: forward, backward, optimizer and EMA."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from darkroom.lightning_modules.adversarial.manual_optimization import ManualOptimization
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.diffusion.text import Text, TextEncoder

Precision = str
AUTOCAST: dict[str, torch.dtype] = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class _Strategy:
    """Strategy of a Trainer that has one device and steps optimizers."""

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: object) -> None:
        optimizer.step()


class _Trainer:
    """Attributes of a Trainer that the training step of some methods reads; R-CNN only fine-tunes, as in fast_dev_run."""

    global_step, world_size, is_last_batch, fast_dev_run = 0, 1, False, True
    testing = predicting = False
    state = SimpleNamespace(fn=None)  # schedules over a fit have their last value
    lr_scheduler_configs: tuple[Any, ...] = ()
    strategy = _Strategy()


class _Stepped:
    """Optimizer as ``LightningModule.optimizers`` returns it."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.step, self.zero_grad = optimizer.step, optimizer.zero_grad


def autocast(precision: Precision) -> AbstractContextManager:
    """Return the context of a precision of the Trainer; none but mixed ones change anything.

    The lists of the CPU decide which operations run in half precision. CUDA's differ: they leave group and layer norm in
    float32.
    """
    return torch.autocast("cpu", AUTOCAST.get(precision, torch.bfloat16), enabled=precision in AUTOCAST)


def _encode(encoder: TextEncoder, words: int, captions: Sequence[str]) -> Text:
    """Return zeros as the tokens of a frozen text encoder, whose weights are not needed."""
    shape = len(captions), min(words, encoder.max_length)
    return Text(torch.zeros(*shape, encoder.dim), torch.ones(shape, dtype=torch.bool))


def detach_from_trainer(module: Technique, words: int) -> list[Optimizer]:
    """Make a module's steps run without a Trainer, and without a frozen text encoder; return its optimizers.

    Losses are not logged. Pretrained layers are trained as all others (``backbone_lr``, ``freeze_*`` of ``model.optim``
    have no effect), since no weights are loaded.

    Args:
        module: is changed.
        words: tokens of a caption.
    """
    options = module.optim
    options.lr_scheduler, options.backbone_lr, options.freeze_epochs, options.freeze_layers = None, 1.0, 0, 0
    options.freeze_batch_norm = False
    vars(module)["log_loss"] = lambda terms: terms.get("loss")
    module.trainer = _Trainer()  # type: ignore[assignment]
    for part in module.modules():
        if isinstance(part, TextEncoder) and not part.trains:
            vars(part)["forward"] = partial(_encode, part, words)
    if not isinstance(module, ManualOptimization):
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return [module.build_optimizer(trained)]
    module.accumulate_grad_batches = 1  # every batch is a step
    optimizers, _ = cast(Technique, module).configure_optimizers()
    stepped = [_Stepped(optimizer) for optimizer in optimizers]
    vars(module)["optimizers"] = lambda: stepped
    vars(module)["manual_backward"] = lambda loss: loss.backward()
    return list(optimizers)


def train_cycle(module: Technique, optimizers: list[Optimizer], batch: dict[str, Any], precision: Precision) -> int:
    """Run a cycle of steps, in which every network steps and every periodic term is computed; return their number."""
    steps = module.steps_per_cycle if isinstance(module, ManualOptimization) else 1
    for _ in range(steps):
        train_step(module, optimizers, batch, precision)
    return steps


def train_step(module: Technique, optimizers: list[Optimizer], batch: dict[str, Any], precision: Precision) -> None:
    """Run forward, backward and optimizer step in the order of Lightning's loop, and update the EMA."""
    if isinstance(module, ManualOptimization):
        with autocast(precision):
            module.training_step(batch, 0)
        cast(_Trainer, module.trainer).global_step += 1
        return
    (optimizer,) = optimizers

    def closure() -> Tensor:
        with autocast(precision):
            loss = module.training_step(batch, 0)
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()  # after the forward pass, as Lightning does
        loss.backward()
        return loss

    module.optimizer_step(0, 0, optimizer, closure)
