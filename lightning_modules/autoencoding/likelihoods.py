"""Likelihoods p(x|z) of images, given the output of a decoder.

Images are float (B, C, H, W) in [-1, 1], a decoder's output ``parameters`` is unbounded and of the same shape. All
compute in float32 for inputs of any type.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.precision import KeepFloat32


class Likelihood(KeepFloat32):
    """Base of the likelihoods p(x|z), whose scales stay float32.

    Attributes:
        discrete: log_prob is a probability of 8-bit or binary values, so bits/dim are defined.
    """

    discrete: bool = False

    def check(self, x: Tensor) -> None:
        """Raise a UsageError for images that log_prob is not defined for; may synchronize with the device."""

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Compute log p(x|z) in nats, summed over all values of each image: float32 (B,)."""
        raise NotImplementedError

    def mean(self, parameters: Tensor) -> Tensor:
        """Compute the mean of p(x|z) as images: float32 (B, C, H, W) in [-1, 1]."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Bernoulli likelihood: a value is white with probability sigmoid(parameters) (Kingma & Welling 2014, appendix C.1).

    For grey values, log_prob is the expectation over images that are binarized at random with these probabilities. That is
    exact for dynamic binarization, but not a density of grey values.

    Args:
        binary: the data are black and white only; then bits/dim are defined and logged.
    """

    def __init__(self, binary: bool = False) -> None:
        super().__init__()
        self.discrete = binary

    def check(self, x: Tensor) -> None:
        """Raise a UsageError if ``binary`` is true and a value of the images is not -1 or 1."""
        if self.discrete and not (x.abs() == 1).all():
            raise UsageError(
                "model.likelihood is Bernoulli with binary true, but the images have values between black and white; "
                "binarize the data (data.binarize), or set binary to false"
            )

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Compute log p(x|z) in nats from logits (B, C, H, W): float32 (B,). For grey values, minus the cross-entropy."""
        white = (x.float() + 1) / 2
        return -F.binary_cross_entropy_with_logits(parameters.float(), white, reduction="none").flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Compute the mean, 2 sigmoid(parameters) - 1: float32 (B, C, H, W) in [-1, 1]."""
        return 2 * parameters.float().sigmoid() - 1


class Gaussian(Likelihood):
    """Normal likelihood with mean ``parameters`` and one sigma for all values: a density over x in [-1, 1].

    The mean is not squashed, because images have many values at the ends of the range, which tanh reaches only at infinity.
    A linear decoder is therefore probabilistic PCA. Values beyond the range are clamped in images, not in log_prob.

    Args:
        sigma: the standard deviation, in [-1, 1]'s units; or "learned": one number for all values, learned with the
            networks (Rybkin et al. 2021, section 3.1), which balances reconstruction and KL by itself.
    """

    log_sigma: Tensor
    lowest = -6.0  # log sigma: a third of an 8-bit level, below which there is nothing to learn

    def __init__(self, sigma: float | Literal["learned"] = "learned") -> None:
        super().__init__()
        if sigma != "learned" and not 0 < sigma < math.inf:
            raise UsageError(f"Gaussian.sigma must be above 0, or 'learned', got {sigma}")
        self.sigma, self.learned = sigma, sigma == "learned"
        if sigma == "learned":
            self.log_sigma = nn.Parameter(torch.tensor(-1.0, dtype=torch.float32))  # about the spread of images
        else:
            self.register_buffer("log_sigma", torch.tensor(math.log(sigma), dtype=torch.float32))

    def scale(self) -> Tensor:
        """Return log sigma, a float32 scalar."""
        return _at_least(self.log_sigma, self.lowest) if self.learned else self.log_sigma

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Compute the log density of x in nats, summed over all values of each image: float32 (B,)."""
        log_sigma = self.scale()
        distance = (x.float() - parameters.float()).square().flatten(1).sum(1)
        normaliser = x[0].numel() * (log_sigma + math.log(2 * math.pi) / 2)
        return -distance / 2 * torch.exp(-2 * log_sigma) - normaliser

    def mean(self, parameters: Tensor) -> Tensor:
        """Compute the mean, ``parameters`` clamped to [-1, 1]: float32 (B, C, H, W)."""
        return parameters.float().clamp(-1, 1)


class DiscretizedLogistic(Likelihood):
    """Discretized logistic likelihood of 256 levels, with mean ``parameters``.

    A level's probability is the logistic's between its edges, half a level away; the outermost levels reach to infinity
    (Salimans et al. 2017, equation 2, with one logistic). The scale is learned, one for each channel. A probability, not a
    density: bits/dim are defined.

    Args:
        channels: C of the images.
    """

    discrete = True
    lowest = -7.0  # of the log scale

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        if channels < 1:
            raise UsageError(f"DiscretizedLogistic.channels must be at least 1, got {channels}")
        # Starts at about the spread of images.
        self.log_scale = nn.Parameter(torch.full((channels, 1, 1), -2.0, dtype=torch.float32))

    def scale(self) -> Tensor:
        """Return the scale, float32 (C, 1, 1)."""
        return _at_least(self.log_scale, self.lowest).exp()

    def check(self, x: Tensor) -> None:
        """Raise a UsageError for images with another number of channels than ``channels``."""
        if x.shape[1] != len(self.log_scale):
            raise UsageError(
                f"DiscretizedLogistic.channels is {len(self.log_scale)}, but the images have {x.shape[1]}; set "
                f"model.likelihood.init_args.channels to {x.shape[1]}"
            )

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Compute the log probability of the 256 levels of x in nats, summed over each image: float32 (B,)."""
        level = ((x.float() + 1) * 127.5).round()
        centred, scale = level / 127.5 - 1 - parameters.float(), self.scale()
        above, below = (centred + 1 / 255) / scale, (centred - 1 / 255) / scale
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): no difference of nearly equal numbers
        inside = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-2 / 255 / scale))
        log_prob = torch.where(level < 0.5, F.logsigmoid(above), inside)
        return torch.where(level > 254.5, F.logsigmoid(-below), log_prob).flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Compute the median, ``parameters`` clamped to [-1, 1], which approximates the mean: float32 (B, C, H, W)."""
        return parameters.float().clamp(-1, 1)  # the median: the outermost levels' share moves the mean a little


def _at_least(value: Tensor, lowest: float) -> Tensor:
    """Apply a soft lower bound, whose gradient is never zero."""
    return lowest + F.softplus(value - lowest)
