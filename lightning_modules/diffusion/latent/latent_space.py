"""LatentSpace: codes of a frozen autoencoder, in which a diffusion model works (Rombach et al. 2022, section 3)."""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep
from darkroom.lightning_modules.utils.precision import KeepFloat32
from darkroom.protocols import BuiltForModel, CodedImages
from darkroom.runtime.lightning_compat import trainer_of


class CodeScale(KeepFloat32):
    """Standard deviation of codes, measured once; 1 before.

    Attributes:
        deviation: float32 scalar.
        measured: bool scalar.
    """

    deviation: Tensor
    measured: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("deviation", torch.ones((), dtype=torch.float32))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))


def _identity(tensor: Tensor) -> Tensor:
    return tensor


class LatentSpace(nn.Module):
    """Frozen autoencoder, and the scale of its codes: images <-> codes of unit variance (Rombach et al. 2022).

    The code of an image is ``encode`` of the autoencoder, for a VAE the mean of its posterior, divided by the standard
    deviation of all values of the codes (appendix G). That is measured on the first batch of the training, and saved in
    checkpoints with the autoencoder.

    Args:
        autoencoder: unconditional, with codes that are maps, such as ``VAE(latent_channels=4)``; it is frozen.
        image_shape: (C, H, W) of the images.

    Attributes:
        shape: (c, h, w) of a code.

    Raises:
        UsageError: the autoencoder has codes that are vectors, takes other images, or is conditional.
    """

    def __init__(self, autoencoder: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
        super().__init__()
        name = type(autoencoder).__name__
        if not isinstance(autoencoder, CodedImages):
            raise UsageError(f"model.autoencoder must be an AutoEncoder or a VAE, got a {name}")
        if len(autoencoder.latent_shape) != 3:
            raise UsageError(
                f"model.autoencoder must have codes that are maps (c, h, w), but the codes of this {name} are vectors of "
                f"{autoencoder.latent_shape[0]}; set its latent_channels, such as 4, and train it again"
            )
        if image_shape is not None and tuple(image_shape) != autoencoder.image_shape:
            raise UsageError(
                f"model.autoencoder takes images of {autoencoder.image_shape}, but model.image_shape is "
                f"{tuple(image_shape)}"
            )
        if autoencoder.num_classes is not None:
            raise UsageError(f"model.autoencoder must be unconditional, got a {name}")
        channels, height, width = autoencoder.latent_shape
        self.shape = (channels, height, width)
        self.autoencoder, self.scale = autoencoder.requires_grad_(False), CodeScale()
        self.train(False)

    def train(self, mode: bool = True) -> "LatentSpace":
        """Keep the autoencoder in eval mode."""
        return super().train(False)

    def check_network(self, network: nn.Module | None) -> None:
        """Raise a UsageError for a network that was built for another shape than that of a code."""
        built = network.built_for.get("image_shape") if isinstance(network, BuiltForModel) else None
        if built is not None and tuple(built) != self.shape:
            raise UsageError(
                f"model.network.image_shape is {tuple(built)}, but the codes of model.autoencoder are {self.shape}; set "
                f"model.network.image_shape to {list(self.shape)}"
            )

    def _codes(self, images: Tensor) -> Tensor:
        """Return the autoencoder's codes, not scaled, float32 (B, c, h, w)."""
        codes = _coded(self.autoencoder).encode(images).float()
        if codes[0].numel() != prod(self.shape):
            raise UsageError(
                f"model.autoencoder must encode an image as {self.shape}, got {tuple(codes.shape[1:])} for images of "
                f"{tuple(images.shape[1:])}"
            )
        return codes.reshape(len(codes), *self.shape)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1] as codes, float32 (B, c, h, w)."""
        return self._codes(images) / self.scale.deviation

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (B, c, h, w) to images, float32 (B, C, H, W) in [-1, 1]."""
        codes = codes.float() * self.scale.deviation
        return _coded(self.autoencoder).decode(codes.flatten(1)).float().clamp(-1, 1)

    @torch.no_grad()
    def measure(self, images: Tensor, gather: Callable[[Tensor], Any] = _identity) -> None:
        """Set the scale to the deviation of the codes of images (B, C, H, W), unless it is set.

        Args:
            images: the first batch of this rank.
            gather: returns a tensor of all ranks, stacked; default: that of this process alone.
        """
        if self.scale.measured:
            return
        codes = self._codes(images)
        mean, squares = gather(torch.stack([codes.mean(), codes.square().mean()])).view(-1, 2).mean(0)
        variance = squares - mean.square()  # appendix G
        if not variance > 0:
            raise UsageError(
                "the codes of model.autoencoder are the same for all images of the first batch; train it first, and give "
                "its checkpoint by model.init_from"
            )
        self.scale.deviation.copy_(variance.sqrt())
        self.scale.measured.fill_(True)

    def decode_steps(self, callback: OnStep | None) -> OnStep | None:
        """Return a sampler's callback that calls another one with images instead of codes."""
        if callback is None:
            return None
        return lambda step: callback(replace(step, x=self.decode(step.x), x0=self.decode(step.x0)))

    def warn_if_untrained(self) -> None:
        """Warn of an autoencoder that has random weights, as far as that is known."""
        model = self.autoencoder
        if (
            not self.scale.measured
            and isinstance(model, Technique)
            and not model.trained_steps
            and not trainer_of(model)
        ):
            rank_zero_warn(
                "model.autoencoder has random weights; set model.init_from to the checkpoint of a trained one, or fit both "
                "by `darkroom chain`"
            )


def _coded(autoencoder: nn.Module) -> CodedImages:
    assert isinstance(autoencoder, CodedImages)
    return autoencoder


def check_latent_options(objective: Objective, sampling: Sampling, classifier: object) -> None:
    """Raise a UsageError for options that are defined only for images."""
    if objective.learned_variance:
        raise UsageError(
            "model.objective.learned_variance must be false with model.autoencoder: its bound is of 8-bit images"
        )
    if objective.self_conditioning:
        raise UsageError(
            "model.objective.self_conditioning must be false with model.autoencoder: codes are not within [-1, 1]"
        )
    if sampling.threshold not in (None, "none"):
        raise UsageError(
            f"model.sampling.threshold must be none with model.autoencoder, because codes are not within [-1, 1], got "
            f"{sampling.threshold}"
        )
    if classifier is not None:
        raise UsageError("model.classifier classifies images, not codes; leave it out, or leave out model.autoencoder")
