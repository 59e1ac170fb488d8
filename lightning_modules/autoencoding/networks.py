"""Encoders and decoders: convolutional and MLP, for any image size and number of channels."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.lightning_modules.utils.eval_mode import eval_mode

Architecture = Literal["conv", "mlp"]


def one_hot(labels: Tensor | None, num_classes: int | None, like: Tensor) -> Tensor:
    """Encode labels int64 (B,) as (B, num_classes) in ``like``'s type; (B, 0) for an unconditional network."""
    if num_classes is None:
        return like.new_zeros(like.shape[0], 0)  # not len, a constant in exported graphs
    if labels is None:
        raise UsageError(f"labels are missing; a network of {num_classes} classes needs int64 (B,) beside its input")
    return F.one_hot(labels, num_classes).to(like.dtype)


def halvings(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Compute (H, W) before and after each of ``times`` convolutions of stride 2, which round up."""
    sizes = [size]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def code_shape(
    image_shape: tuple[int, int, int], channels: Sequence[int], latent_dim: int | None, latent_channels: int | None
) -> tuple[int, ...]:
    """Return the shape of codes: (D,) of vectors, or (c, h, w) of maps after the stages of a convolutional encoder.

    Args:
        image_shape, channels: of the encoder.
        latent_dim: D of vectors; None: 20.
        latent_channels: c of maps; None: codes are vectors.

    Raises:
        UsageError: both are given, or the number of channels is below 1.
    """
    if latent_channels is None:
        return (20 if latent_dim is None else latent_dim,)
    if latent_dim is not None:
        raise UsageError(
            f"model.latent_dim must be null with model.latent_channels, which determines the shape of a code, got "
            f"{latent_dim}"
        )
    if latent_channels < 1:
        raise UsageError(
            f"model.latent_channels must be at least 1, or null for codes that are vectors, got {latent_channels}"
        )
    height, width = halvings(image_shape[1:], len(channels))[-1]
    return latent_channels, height, width


def _stage(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.LeakyReLU(inplace=True))


class ConvEncoder(nn.Module):
    """Encoder of stages, a 3x3 convolution of stride 2, batch norm and LeakyReLU each, and a linear layer.

    (B, C, H, W)[, labels int64 (B,)] -> (B, outputs). With channels (32, 64, 128, 256, 512) at 64x64 it is the
    encoder of PyTorch-VAE, whose two linear layers are one here.

    Args:
        image_shape: (C, H, W), any size.
        outputs: numbers per image: latent_dim, or mean and log variance, twice as many.
        channels: of each stage.
        num_classes: of a conditional network; the label is one more input plane per class, constant 1 or 0.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        outputs: int,
        channels: Sequence[int] = (32, 64, 128, 256),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [image_shape[0] + (num_classes or 0), *channels]
        self.stages = nn.Sequential(*(_stage(nn.Conv2d(a, b, 3, 2, 1), b) for a, b in pairwise(widths)))
        self.head = nn.Linear(widths[-1] * prod(halvings(image_shape[1:], len(channels))[-1]), outputs)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(self.stages(_with_planes(x, labels, self.num_classes)).flatten(1))


class ConvDecoder(nn.Module):
    """Mirror of ConvEncoder: a linear layer, transposed 3x3 convolutions of stride 2, and a 3x3 convolution to the image.

    (B, latent_dim)[, labels int64 (B,)] -> (B, C, H, W), unbounded parameters of a likelihood.

    Args:
        image_shape: (C, H, W), any size: each stage restores the size before the encoder's stage.
        latent_dim: numbers per image.
        channels: of the encoder's stages.
        num_classes: of a conditional network; the label is concatenated to the code as a one-hot vector.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        channels: Sequence[int] = (32, 64, 128, 256),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.top = (channels[-1], *halvings(image_shape[1:], len(channels))[-1])
        self.stem = nn.Linear(latent_dim + (num_classes or 0), prod(self.top))
        self.stages = _expanding_stages(image_shape, channels)
        self.head = nn.Conv2d(channels[0], image_shape[0], 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        z = torch.cat([z, one_hot(labels, self.num_classes, z)], 1)
        return self.head(self.stages(self.stem(z).unflatten(1, self.top)))


class MapEncoder(nn.Module):
    """ConvEncoder with a 3x3 convolution instead of the linear layer: its output is a map (c, h, w), flattened.

    (B, C, H, W)[, labels int64 (B,)] -> (B, outputs).

    Args:
        image_shape, channels, num_classes: see ConvEncoder.
        outputs: numbers per image, a multiple of h w: those of the code, or mean and log variance, twice as many.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        outputs: int,
        channels: Sequence[int] = (32, 64),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [image_shape[0] + (num_classes or 0), *channels]
        self.stages = nn.Sequential(*(_stage(nn.Conv2d(a, b, 3, 2, 1), b) for a, b in pairwise(widths)))
        self.head = nn.Conv2d(widths[-1], outputs // prod(halvings(image_shape[1:], len(channels))[-1]), 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(self.stages(_with_planes(x, labels, self.num_classes))).flatten(1)


class MapDecoder(nn.Module):
    """Mirror of MapEncoder: ConvDecoder with a 3x3 convolution instead of the linear layer.

    (B, latent_dim)[, labels int64 (B,)] -> (B, C, H, W), unbounded parameters of a likelihood.

    Args:
        image_shape, channels: see ConvDecoder.
        latent_dim: numbers per image, c h w of a code, which is a map after the encoder's stages.
        num_classes: of a conditional network; the label is one more plane of the code per class, constant 1 or 0.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        channels: Sequence[int] = (32, 64),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        height, width = halvings(image_shape[1:], len(channels))[-1]
        self.code, self.num_classes = (latent_dim // (height * width), height, width), num_classes
        self.stem = nn.Conv2d(self.code[0] + (num_classes or 0), channels[-1], 3, padding=1)
        self.stages = _expanding_stages(image_shape, channels)
        self.head = nn.Conv2d(channels[0], image_shape[0], 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(self.stages(self.stem(_with_planes(z.unflatten(1, self.code), labels, self.num_classes))))


def _with_planes(x: Tensor, labels: Tensor | None, num_classes: int | None) -> Tensor:
    """Concatenate a plane per class, constant 1 or 0, to a map (B, C, H, W) of a conditional network."""
    if num_classes is None:
        return x
    return torch.cat([x, one_hot(labels, num_classes, x)[..., None, None].expand(-1, -1, *x.shape[-2:])], 1)


def _expanding_stages(image_shape: tuple[int, int, int], channels: Sequence[int]) -> nn.Sequential:
    """Build transposed convolutions, each of which restores the size before a stage of the encoder."""
    sizes = halvings(image_shape[1:], len(channels))[::-1]
    widths, stages = [*channels[::-1], channels[0]], nn.Sequential()
    for (before, after), (small, large) in zip(pairwise(widths), pairwise(sizes), strict=True):
        # Without it the output has 2 n - 1 pixels: halving rounds up, so an even side lacks one.
        missing = large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1)
        stages.append(_stage(nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=missing), after))
    return stages


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Module):
    """Hidden layers with tanh, then a linear layer (Kingma & Welling 2014, appendix C.2; Burda et al. 2016: 200, 200).

    (B, C, H, W)[, labels int64 (B,)] -> (B, outputs).

    Args:
        image_shape: (C, H, W).
        outputs: numbers per image: latent_dim, or mean and log variance, twice as many.
        hidden: units of each hidden layer.
        num_classes: of a conditional network; the label is concatenated to the pixels as a one-hot vector.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        outputs: int,
        hidden: Sequence[int] = (500,),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.layers = _mlp([prod(image_shape) + (num_classes or 0), *hidden, outputs])

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), one_hot(labels, self.num_classes, x)], 1))


class MLPDecoder(nn.Module):
    """Mirror of MLPEncoder.

    (B, latent_dim)[, labels int64 (B,)] -> (B, C, H, W), unbounded parameters of a likelihood.

    Args:
        image_shape: (C, H, W).
        latent_dim: numbers per image.
        hidden: units of the encoder's hidden layers.
        num_classes: of a conditional network; the label is concatenated to the code as a one-hot vector.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        hidden: Sequence[int] = (500,),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        self.layers = _mlp([latent_dim + (num_classes or 0), *hidden[::-1], prod(image_shape)])

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(torch.cat([z, one_hot(labels, self.num_classes, z)], 1)).unflatten(1, self.image_shape)


def encoder_and_decoder(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    outputs: int,
    architecture: Architecture,
    channels: Sequence[int],
    hidden: Sequence[int],
    num_classes: int | None,
    encoder: nn.Module | None,
    decoder: nn.Module | None,
    maps: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Return networks that map images to ``outputs`` numbers and ``latent_dim`` numbers to images: given ones or defaults.

    Args:
        image_shape, latent_dim, outputs: of the images, of a code, and of the encoder's output.
        architecture, channels, hidden: of networks that are None.
        num_classes: of conditional networks.
        encoder, decoder: given networks.
        maps: a code is a map (c, h, w), flattened.

    Raises:
        UsageError: a size is invalid, or the output of a given network has another shape.
    """
    for name, value in {"latent_dim": [latent_dim], "channels": channels, "hidden": hidden}.items():
        if min(value, default=0) < 1:
            raise UsageError(f"model.{name} must be at least 1, got {list(value) if len(value) != 1 else value[0]}")
    first: Callable[..., nn.Module]
    second: Callable[..., nn.Module]
    if check_choice("model.architecture", architecture, Architecture) == "conv":
        first, second, widths = ConvEncoder, ConvDecoder, channels
    else:
        first, second, widths = MLPEncoder, MLPDecoder, hidden
    if maps:
        if architecture != "conv":
            raise UsageError(f"model.architecture must be conv with model.latent_channels, got {architecture}")
        first, second = MapEncoder, MapDecoder
    labels = None if num_classes is None else torch.zeros(2, dtype=torch.int64)
    if encoder is None:
        encoder = first(image_shape, outputs, widths, num_classes)
    else:
        check_network("model.encoder", encoder, torch.zeros(2, *image_shape), labels, (outputs,))
    if decoder is None:
        decoder = second(image_shape, latent_dim, widths, num_classes)
    else:
        check_network("model.decoder", decoder, torch.zeros(2, latent_dim), labels, tuple(image_shape), unbounded=True)
    return encoder, decoder


@torch.no_grad()
def check_network(
    key: str, network: nn.Module, x: Tensor, labels: Tensor | None, shape: tuple[int, ...], unbounded: bool = False
) -> None:
    """Run a network on a batch of two.

    Raises:
        UsageError: the output is not (2, *shape), or comes from a sigmoid or tanh although it must be ``unbounded``.
    """
    device = next((p.device for p in network.parameters()), x.device)
    inputs = " and labels int64 (2,)" if labels is not None else ""
    squashed: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, args, output: squashed.append(output))
        for module in network.modules()
        if isinstance(module, nn.Sigmoid | nn.Tanh)
    ]
    try:
        with eval_mode(network):
            output = apply(network, x.to(device), labels if labels is None else labels.to(device))
        found = tuple(output.shape)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UsageError(
            f"{key} ({type(network).__name__}) fails on {tuple(x.shape)}{inputs}: {error}; it must return {(2, *shape)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if found != (2, *shape):
        raise UsageError(
            f"{key} ({type(network).__name__}) maps {tuple(x.shape)}{inputs} to {found}; it must return {(2, *shape)}"
        )
    # The same memory: a view, such as Unflatten's, is still the squashed output.
    if unbounded and any(output.untyped_storage().data_ptr() == s.untyped_storage().data_ptr() for s in squashed):
        raise UsageError(
            f"{key} ({type(network).__name__}) ends in a sigmoid or tanh; remove it, because the likelihood maps the "
            "output to images"
        )


def apply(network: Callable[..., Tensor], x: Tensor, labels: Tensor | None) -> Tensor:
    """Call ``network(x)``, or ``network(x, labels)`` if there are labels."""
    return network(x) if labels is None else network(x, labels)
