"""Graphs of encoders and decoders for ``darkroom export``: uint8 images to latents, and latents to uint8 images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.protocols.export import BATCH, ExportGraph, TensorSpec, image_spec

Normalization = tuple[Sequence[float], Sequence[float]]
_SIZE = "none: images have the size of the training"


class LatentImages(Protocol):
    """Generative model with latents that are vectors."""

    image_shape: tuple[int, int, int]
    num_classes: int | None
    latent_dim: int

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Decode latents (B, D) to images (B, C, H, W) in [-1, 1]."""
        ...

    def to_uint8(self, images: Tensor) -> Tensor:
        """Convert images in [-1, 1] to uint8."""
        ...


class _Encoder(nn.Module):
    """Uint8 images (B, C, H, W)[, labels int64 (B,)] -> ``outputs`` vectors float32 (B, D)."""

    def __init__(self, network: nn.Module, outputs: int, normalization: Normalization) -> None:
        super().__init__()
        self.normalize, self.network, self.outputs = ImageNormalization(*normalization), network, outputs

    def forward(self, image: Tensor, *label: Tensor) -> tuple[Tensor, ...]:
        return self.network(self.normalize(image), *label).float().chunk(self.outputs, 1)


class _Decoder(nn.Module):
    """Latents (B, D)[, labels int64 (B,)] -> images uint8 (B, C, H, W), and their values in [-1, 1] before rounding."""

    def __init__(self, network: nn.Module, to_values: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.to_values = network, to_values

    def forward(self, latent: Tensor, *label: Tensor) -> tuple[Tensor, Tensor]:
        values = self.to_values(self.network(latent, *label))
        return round_image(values), values


def round_image(values: Tensor) -> Tensor:
    """Convert values in [-1, 1] to uint8, as ``Generative.to_uint8``."""
    return ((values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def label_inputs(num_classes: int | None) -> dict[str, tuple[TensorSpec, Callable[[Mapping[str, int]], Tensor]]]:
    """Return the input of labels with a function that returns examples, by name; {} for an unconditional model."""
    if num_classes is None:
        return {}
    spec = TensorSpec("label", "int64", (BATCH,), f"class of each image, 0 to {num_classes - 1}")
    return {"label": (spec, lambda sizes: torch.arange(sizes[BATCH]) % num_classes)}


def encoder_graph(
    model: LatentImages,
    network: nn.Module,
    normalization: Normalization,
    encode: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]],
    names: Mapping[str, str],
) -> ExportGraph:
    """Return the graph of an encoder.

    Args:
        model: whose encoder it is.
        network: maps normalized images, and labels if the model is conditional, to the outputs, concatenated.
        normalization: of the images.
        encode: the method's own computation of the outputs from normalized images and labels.
        names: of the outputs, each with its meaning.
    """
    labels, normalize = label_inputs(model.num_classes), ImageNormalization(*normalization)
    return ExportGraph(
        module=_Encoder(network, len(names), normalization),
        inputs=(image_spec(*model.image_shape), *(spec for spec, _ in labels.values())),
        outputs=tuple(TensorSpec(name, "float32", (BATCH, model.latent_dim), text) for name, text in names.items()),
        resizing=_SIZE,
        examples={name: example for name, (_, example) in labels.items()},
        reference=lambda image, label=None: encode(normalize(image), label),
    )


def decoder_graph(
    model: LatentImages, network: nn.Module, to_values: Callable[[Tensor], Tensor], prior: Mapping[str, Any]
) -> ExportGraph:
    """Return the graph of a decoder or generator.

    Args:
        model: whose decoder it is.
        network: maps latents, and labels if the model is conditional, to images.
        to_values: maps the network's output to images in [-1, 1].
        prior: distribution of latents for sampling: ``distribution``, normal or uniform in [-1, 1]; and ``mean`` (D,) and
            ``root`` (D, D) if the latent is mean + noise @ root, or ``deviation`` (D,) if it is mean + noise * deviation;
            or mixture, with ``weights`` (K,), ``means`` (K, D) and ``roots`` (K, D, D) of its components.
    """

    def decode(latent: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        values = model.decode(latent, labels=label)
        return model.to_uint8(values), values

    labels = label_inputs(model.num_classes)
    latent = TensorSpec("latent", "float32", (BATCH, model.latent_dim), "latents, see options.prior")
    return ExportGraph(
        module=_Decoder(network, to_values),
        inputs=(latent, *(spec for spec, _ in labels.values())),
        outputs=(
            TensorSpec("image", "uint8", (BATCH, *model.image_shape), "images, 0 to 255"),
            TensorSpec("values", "float32", (BATCH, *model.image_shape), "the same before rounding, -1 to 1"),
        ),
        resizing=_SIZE,
        options={"prior": dict(prior), "num_classes": model.num_classes},
        examples={name: example for name, (_, example) in labels.items()},
        reference=decode,
    )
