"""Guidance: pictures more like their condition than the model would draw them, and kept within their range."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError

Threshold = Literal["static", "dynamic", "none"]


def check_interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """The part of the time in which guidance is at work.

    Raises:
        UsageError: it does not rise within [0, 1].
    """
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
        raise UsageError(
            f"model.sampling.guidance_interval must be two rising fractions of the time in [0, 1], such as [0.2, 0.8], got "
            f"{interval}"
        )
    return interval


class Guided(nn.Module):
    """Classifier-free guidance (Ho & Salimans 2022, equation 6) around a network; called as the network is.

    The prediction is unconditional + weight (conditional - unconditional), of both in one pass of 2 B rows, whether the
    network predicts eps, x0 or v. Weight 1 is the conditional model itself and 0 the unconditional one, each in one pass
    of B rows; the paper's w is ours minus 1. Channels beyond those of the picture, a learned variance, are the
    conditional model's wherever it is asked.

    Args:
        network: called as ``network(x, t, **condition)``; learned also without what ``null`` names.
        weight: of the condition.
        null: what it is told where it is told nothing, by name: the value of all its numbers. Of classes, {"label":
            num_classes}; of texts, {"text": 0.0, "text_mask": False}. The rest of the condition is always told.
        interval: part of the time, of [0, 1] with 1 all noise, in which guidance is at work: low <= t / T < high
            (Kynkäänniemi et al. 2024); elsewhere the conditional model alone is asked. None: always.
        num_steps: T, needed by an interval.

    Raises:
        UsageError: an interval that is none, or whose T is not known.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float,
        null: Mapping[str, float],
        interval: tuple[float, float] | None = None,
        num_steps: int | None = None,
    ) -> None:
        super().__init__()
        if check_interval(interval) is not None and num_steps is None:
            raise UsageError(
                f"model.sampling.guidance_interval is {interval}, parts of the time: give Guided its num_steps, T"
            )
        self.network, self.weight, self.null = network, weight, dict(null)
        self.interval = None if interval is None else tuple(part * num_steps for part in interval)

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor | None) -> Tensor:
        """The guided prediction, (B, C, H, W) as the network's, float32 where two were mixed.

        Args:
            x: noisy pictures (B, C, H, W).
            t: times (B,).
            condition: what else the network is told, of B rows each.
        """
        weight: float | Tensor = self.weight
        if self.interval is not None and weight != 1:
            inside = (t >= self.interval[0]) & (t < self.interval[1])
            # Waits for the device, which costs less than a second pass for nothing.
            weight = (1 + (weight - 1) * inside.float()).view(-1, 1, 1, 1) if inside.any() else 1
        nothing = {name: torch.full_like(condition[name], value) for name, value in self.null.items()}
        if isinstance(weight, (int, float)) and weight in (0, 1):
            return self.network(x, t, **(condition if weight == 1 else condition | nothing))
        twice = {
            name: None if value is None else torch.cat([value, nothing.get(name, value)])
            for name, value in condition.items()
        }
        output = self.network(torch.cat([x, x]), torch.cat([t, t]), **twice)
        conditional, unconditional = output.float().chunk(2)
        channels = x.shape[1]
        difference = conditional[:, :channels] - unconditional[:, :channels]
        guided = unconditional[:, :channels] + weight * difference
        return torch.cat([guided, conditional[:, channels:]], 1)


def static_threshold(x0: Tensor) -> Tensor:
    """A predicted picture (B, C, H, W), clipped to [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamic_threshold(x0: Tensor, percentile: float = 0.995) -> Tensor:
    """A predicted picture, clipped where its values become rare and scaled back into [-1, 1] (Saharia et al. 2022, section
    2.3): guidance does not saturate it. What lies within [-1, 1] stays as it is.

    Args:
        x0: (B, C, H, W), computed in float32.
        percentile: in (0, 1]: the part of a picture's values that is not clipped, if they exceed 1.
    """
    x0 = x0.float()
    scale = torch.quantile(x0.abs().flatten(1), percentile, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x0.clamp(-scale, scale) / scale
