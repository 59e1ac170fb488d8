"""ModelWrapper: a network as x0-prediction, as samplers need it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import Parameterization
from darkroom.lightning_modules.diffusion.sampling.guidance import Threshold, dynamic_threshold, static_threshold
from darkroom.lightning_modules.diffusion.sampling.samplers import X0Prediction
from darkroom.lightning_modules.utils.arguments import check_choice

X0Shift = Callable[[Tensor, float], Tensor]  # change of the predicted image, from x_t (B, C, H, W) and t


def call_network(
    network: nn.Module, x: Tensor, t: Tensor, condition: dict[str, Any], learned_variance: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return a network's prediction, float32 (B, C, H, W), and v of the variance if it is learned.

    Args:
        network: called as ``network(x, t, **condition)``, in its own precision.
        x: noisy images (B, C, H, W).
        t: times (B,).
        condition: further arguments, such as ``label``.
        learned_variance: the network returns twice as many channels.

    Raises:
        UsageError: the output has another number of channels.
    """
    output = network(x.to(next(network.parameters()).dtype), t, **condition).float()
    channels = x.shape[1]
    if output.shape[1] != channels * (1 + learned_variance):
        raise UsageError(
            f"the network must return {channels * (1 + learned_variance)} channels for images of {channels}, with "
            f"model.objective.learned_variance {str(learned_variance).lower()}, got {output.shape[1]}"
        )
    return (output, None) if not learned_variance else (output[:, :channels], output[:, channels:])


def clamp_x0(x0: Tensor) -> Tensor:
    """Clamp a predicted image (B, C, H, W) to the range of images, for self-conditioning."""
    return x0.clamp(-1, 1)


class ModelWrapper:
    """Wrapper of a network as ``X0Predictor``: ``model(x_t, t)`` returns the thresholded x0 and v of the variance.

    With self-conditioning it stores its last prediction, so every sampling needs a new wrapper.

    Args:
        network: called as ``network(x, t, **condition)``; see ``call_network``.
        schedule: of the noise.
        parameterization: of the network's output.
        condition: further arguments of the network, such as ``label``.
        learned_variance: the second half of the output is v of the variance.
        self_conditioning: the last prediction is a further argument, ``x0``.
        threshold: of the predicted image: static, dynamic or none.
        percentile: of dynamic thresholding.
        shift: change of the predicted image before the threshold, such as that of classifier guidance; None: none.

    Raises:
        UsageError: an unknown threshold, or a percentile out of (0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        parameterization: Parameterization,
        condition: dict[str, Any] | None = None,
        learned_variance: bool = False,
        self_conditioning: bool = False,
        threshold: Threshold = "static",
        percentile: float = 0.995,
        shift: X0Shift | None = None,
    ) -> None:
        if not 0 < percentile <= 1:
            raise UsageError(f"model.sampling.percentile must be in (0, 1], such as 0.995, got {percentile}")
        self.network, self.schedule, self.condition = network, schedule, condition or {}
        self.parameterization = parameterization
        self.learned_variance, self.self_conditioning = learned_variance, self_conditioning
        self.threshold, self.percentile = check_choice("model.sampling.threshold", threshold, Threshold), percentile
        self.shift = shift
        self._last: Tensor | None = None

    def __call__(self, x: Tensor, t: float) -> X0Prediction:
        condition = self.condition
        if self.self_conditioning:
            condition = condition | {"x0": torch.zeros_like(x) if self._last is None else self._last}
        dtype = torch.long if isinstance(t, int) else torch.float32
        times = torch.full((len(x),), t, dtype=dtype, device=x.device)
        alpha, sigma = self.schedule.at(t)
        scaled = self.parameterization.network_input(x, alpha, sigma)
        output, variance = call_network(self.network, scaled, times, condition, self.learned_variance)
        x0 = self.parameterization.to_x0(output, x, alpha, sigma)
        if self.shift is not None:
            x0 = x0 + self.shift(x, t)
        if self.threshold == "static":
            x0 = static_threshold(x0)
        elif self.threshold == "dynamic":
            x0 = dynamic_threshold(x0, self.percentile)
        self._last = clamp_x0(x0)
        return X0Prediction(x0, variance)
