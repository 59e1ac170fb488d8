"""EMA: a slow copy of a network, whose weights are the exponential moving average of those that train."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.fsdp import local
from darkroom.lightning_modules.utils.precision import KeepFloat32


@dataclass(frozen=True)
class EMAOptions:
    """Options of an exponential moving average.

    Args:
        decay: in [0, 1), reached after a warm-up; 0 follows at once.

    Raises:
        UsageError: the decay is not in [0, 1).
    """

    decay: float = 0.9999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UsageError(f"model.ema.decay must be in [0, 1), such as 0.999, got {self.decay}")


class EMA(KeepFloat32):
    """The exponential moving average of a network's weights, kept beside it and in its checkpoints.

    Update n moves every weight by ``1 - decay_n`` of the way to where it is now; ``decay_n = min(decay, (1 + n)/(10 + n))``
    with warm-up, so that the random start is soon forgotten. Buffers of floats (statistics of batch norm) are averaged as
    well, others are copied. The average is float32 whatever the network is: a step of a thousandth is lost in bfloat16.

    Args:
        module: what to average; it is copied, not kept.
        decay: in [0, 1); 0 follows at once.
        warmup: begin with a smaller decay.

    Attributes:
        module: the average; always in eval mode, without gradients.

    Raises:
        UsageError: the decay is not in [0, 1).
    """

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
        """Leaves the average in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights as they are now. Nothing waits for the device."""
        averaged, current = [], []
        for mine, its in zip(_tensors(self.module), _tensors(module), strict=True):
            if mine.is_floating_point():
                averaged.append(local(mine))  # divided as the network is, if that is
                current.append(local(its).float())
            else:
                mine.copy_(its)
        n = self.updates.float()
        decay = ((1 + n) / (10 + n)).clamp(max=self.decay) if self.warmup else self.decay
        difference = torch._foreach_sub(current, averaged)
        torch._foreach_mul_(difference, 1 - decay)
        torch._foreach_add_(averaged, difference)
        self.updates += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
