"""Classifier-free guidance, and thresholds of predicted images."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError

Threshold = Literal["static", "dynamic", "none"]


def check_interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the fraction of the time in which guidance is active.

    Raises:
        UsageError: the interval is not ascending within [0, 1].
    """
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
        raise UsageError(
            "model.sampling.guidance_interval must be two ascending fractions of the time in [0, 1], such as [0.2, 0.8], "
            f"got {interval}"
        )
    return interval


class Guided(nn.Module):
    """Classifier-free guidance (Ho & Salimans 2022, equation 6) of a network; called as the network is.

    The prediction is unconditional + weight (conditional - unconditional), both in one pass of 2 B rows, whether the
    network predicts eps, x0 or v. Weight 1 is the conditional model itself and 0 the unconditional one, each in one pass of
    B rows; the paper's w is ours minus 1. Channels beyond those of the image, a learned variance, are those of the
    conditional model if it is evaluated.

    Args:
        network: called as ``network(x, t, **condition)``; trained also with the null condition.
        weight: of the condition.
        null_condition: fill value of each conditioning tensor in the unconditional pass: {"label": num_classes} of classes,
            {"text": 0.0, "text_mask": False} of texts. Other conditioning tensors are the same in both passes.
        interval: fraction of the time, of [0, 1] with 1 all noise, in which guidance is active: low <= t / T < high
            (Kynkäänniemi et al. 2024). At other times the model is the conditional one. None: always.
        num_steps: T, needed by an interval.

    Raises:
        UsageError: the interval is invalid, or there is an interval without num_steps.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float,
        null_condition: Mapping[str, float],
        interval: tuple[float, float] | None = None,
        num_steps: int | None = None,
    ) -> None:
        super().__init__()
        if check_interval(interval) is not None and num_steps is None:
            raise UsageError(
                f"model.sampling.guidance_interval is {interval}, fractions of the time; Guided needs num_steps, their T"
            )
        self.network, self.weight, self.null_condition = network, weight, dict(null_condition)
        self.interval: tuple[float, float] | None = None  # in steps
        if interval is not None and num_steps is not None:
            self.interval = interval[0] * num_steps, interval[1] * num_steps

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor | None) -> Tensor:
        """Predict with guidance: as the network does, in float32 where two predictions are combined.

        Args:
            x: noisy images (B, C, H, W).
            t: times (B,).
            condition: further arguments of the network, B rows each.
        """
        weight: float | Tensor = self.weight
        if self.interval is not None and weight != 1:
            inside = (t >= self.interval[0]) & (t < self.interval[1])
            # Synchronizes with the device, which costs less than a second pass that is not needed.
            weight = (1 + (weight - 1) * inside.float()).view(-1, 1, 1, 1) if inside.any() else 1
        null = {
            name: torch.full_like(value, self.null_condition[name])
            for name, value in condition.items()
            if value is not None and name in self.null_condition
        }
        if isinstance(weight, (int, float)) and weight in (0, 1):
            return self.network(x, t, **(condition if weight == 1 else {**condition, **null}))
        twice = {
            name: None if value is None else torch.cat([value, null.get(name, value)])
            for name, value in condition.items()
        }
        output = self.network(torch.cat([x, x]), torch.cat([t, t]), **twice)
        conditional, unconditional = output.float().chunk(2)
        channels = x.shape[1]
        difference = conditional[:, :channels] - unconditional[:, :channels]
        guided = unconditional[:, :channels] + weight * difference
        return torch.cat([guided, conditional[:, channels:]], 1)


def static_threshold(x0: Tensor) -> Tensor:
    """Clip a predicted image (B, C, H, W) to [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamic_threshold(x0: Tensor, percentile: float = 0.995) -> Tensor:
    """Clip a predicted image at a percentile of its absolute values and rescale it to [-1, 1] (Saharia et al. 2022, section
    2.3), which prevents saturation by guidance. An image within [-1, 1] is unchanged.

    Args:
        x0: (B, C, H, W), computed in float32.
        percentile: in (0, 1]: fraction of an image's values that are not clipped, if the others exceed 1.
    """
    x0 = x0.float()
    scale = torch.quantile(x0.abs().flatten(1), percentile, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x0.clamp(-scale, scale) / scale
