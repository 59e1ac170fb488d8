"""EMA: a copy of a network whose weights are the exponential moving average of the trained ones."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.fsdp import to_local
from darkroom.lightning_modules.utils.precision import KeepFloat32
from darkroom.ranges import ClosedUnitInterval


@dataclass(frozen=True)
class EMAOptions:
    """Options of an exponential moving average.

    Args:
        decay: in [0, 1), reached after a warm-up; 0 copies the weights.

    Raises:
        UsageError: the decay is not in [0, 1).
    """

    decay: ClosedUnitInterval = 0.9999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UsageError(f"model.ema.decay must be in [0, 1), such as 0.999, got {self.decay}")


class EMA(KeepFloat32):
    """Exponential moving average of a network's weights, saved in its checkpoints.

    Update n moves every average by the fraction ``1 - decay_n`` towards the current weight. With warm-up ``decay_n =
    min(decay, (1 + n)/(10 + n))``, which reduces the influence of the random start. Float buffers (statistics of batch
    norm) are averaged too, others copied. The average is float32 for any network: bfloat16 loses steps of a thousandth.

    Args:
        module: to average; it is copied.
        decay: in [0, 1); 0 copies the weights.
        warmup: begin with a smaller decay.

    Attributes:
        module: the average; always in eval mode, without gradients.

    Raises:
        UsageError: the decay is not in [0, 1).
    """

    updates: Tensor

    def __init__(self, module: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UsageError(
                f"the decay of an exponential moving average must be in [0, 1), such as 0.999, got {decay}"
            )
        self.decay, self.warmup = decay, warmup
        self.module = copy.deepcopy(module).float().eval().requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> "EMA":
        """Keep the average in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the average with the current weights, without synchronizing with the device."""
        averaged, current = [], []
        for mine, its in zip(_tensors(self.module), _tensors(module), strict=True):
            if mine.is_floating_point():
                averaged.append(to_local(mine))  # sharded as the network
                current.append(to_local(its).float())
            else:
                mine.copy_(its)
        n = self.updates.float()
        decay = torch.div(1 + n, 10 + n).clamp(max=self.decay) if self.warmup else self.decay
        difference = torch._foreach_sub(current, averaged)
        torch._foreach_mul_(difference, 1 - decay)
        torch._foreach_add_(averaged, difference)
        self.updates += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
