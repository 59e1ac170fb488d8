"""Denoising: what samplers ask of a network: noisy pictures and a time, for the pictures behind the noise."""

from typing import Any

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import Prediction, to_x0
from darkroom.lightning_modules.diffusion.sampling.guidance import Threshold, dynamic_threshold, static_threshold
from darkroom.lightning_modules.diffusion.sampling.samplers import Denoised
from darkroom.lightning_modules.utils.arguments import check_choice


def ask(
    network: nn.Module, x: Tensor, t: Tensor, condition: dict[str, Any], learned_variance: bool = False
) -> tuple[Tensor, Tensor | None]:
    """What a network predicts, float32 (B, C, H, W), and v of the variance, where it is learned.

    Args:
        network: called as ``network(x, t, **condition)``, in its own precision.
        x: noisy pictures (B, C, H, W).
        t: times (B,).
        condition: label and what else it is given.
        learned_variance: the network returns twice as many channels.

    Raises:
        UsageError: another number of channels.
    """
    output = network(x.to(next(network.parameters()).dtype), t, **condition).float()
    channels = x.shape[1]
    if output.shape[1] != channels * (1 + learned_variance):
        raise UsageError(
            f"the network must return {channels * (1 + learned_variance)} channels for images of {channels}, with "
            f"model.objective.learned_variance {str(learned_variance).lower()}, got {output.shape[1]}"
        )
    return (output, None) if not learned_variance else (output[:, :channels], output[:, channels:])


def guess_of(x0: Tensor) -> Tensor:
    """What a network that conditions itself is given of a predicted picture (B, C, H, W): values that pictures have."""
    return x0.clamp(-1, 1)


class Denoising:
    """A network as a ``Denoise``: ``denoising(x_t, t)`` is the picture predicted, thresholded, and v of the variance.

    It remembers its last prediction, if the network conditions on that: make a new one for every sampling.

    Args:
        network: called as ``network(x, t, **condition)``; see ``ask``.
        schedule: says what t means.
        prediction: what the network's output is: eps, x0 or v.
        condition: label and what else the network is given.
        learned_variance: its output has a second half, v.
        self_conditioning: it is also given its last prediction, as ``x0``.
        threshold: of the predicted picture: static, dynamic or none.
        percentile: of dynamic thresholding.

    Raises:
        UsageError: a threshold that there is not, or a percentile out of (0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        prediction: Prediction,
        condition: dict[str, Any] | None = None,
        learned_variance: bool = False,
        self_conditioning: bool = False,
        threshold: Threshold = "static",
        percentile: float = 0.995,
    ) -> None:
        if not 0 < percentile <= 1:
            raise UsageError(f"model.sampling.percentile must be in (0, 1], such as 0.995, got {percentile}")
        self.network, self.schedule, self.prediction, self.condition = network, schedule, prediction, condition or {}
        self.learned_variance, self.self_conditioning = learned_variance, self_conditioning
        self.threshold, self.percentile = check_choice("model.sampling.threshold", threshold, Threshold), percentile
        self._last: Tensor | None = None

    def __call__(self, x: Tensor, t: float) -> Denoised:
        condition = self.condition
        if self.self_conditioning:
            condition = condition | {"x0": torch.zeros_like(x) if self._last is None else self._last}
        dtype = torch.long if isinstance(t, int) else torch.float32
        times = torch.full((len(x),), t, dtype=dtype, device=x.device)
        output, variance = ask(self.network, x, times, condition, self.learned_variance)
        x0 = to_x0(self.prediction, output, x, *self.schedule.at(t))
        if self.threshold == "static":
            x0 = static_threshold(x0)
        elif self.threshold == "dynamic":
            x0 = dynamic_threshold(x0, self.percentile)
        self._last = guess_of(x0)
        return Denoised(x0, variance)
