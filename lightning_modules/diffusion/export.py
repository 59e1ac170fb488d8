"""Graphs of diffusion models for ``darkroom export``: denoiser, text encoder and upsampler."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import Parameterization
from darkroom.lightning_modules.diffusion.sampling.model_wrapper import call_network
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.sampling.table import Evaluation, tabulate
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder, TextEncoder
from darkroom.lightning_modules.generation.export import round_image
from darkroom.protocols.export import BATCH, ExportGraph, TensorSpec

TOKENS = "tokens"
Example = Callable[[Mapping[str, int]], Tensor]
Inputs = Mapping[str, tuple[TensorSpec, Example]]

_SEEDS = (
    "the noise of an image is torch.randn of a CPU generator with its seed: first x_T, then the small image's noise, then "
    "that of each evaluation; numpy.random.RandomState(seed modulo 2**32) has the same random bits"
)


class DenoisingModel(Protocol):
    """Diffusion model, as export reads it."""

    num_classes: int | None
    schedule: NoiseSchedule
    sampling: Sampling
    parameterization: Parameterization
    learned_variance: bool
    self_conditioning: bool

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Shape of x_0: (C, H, W) of images, or (c, h, w) of codes."""
        ...

    @property
    def sampling_network(self) -> nn.Module:
        """Network with the EMA weights, called as ``network(x, t, **condition)``."""
        ...

    @property
    def guidance(self) -> float:
        """Weight of the condition."""
        ...

    @property
    def null_condition(self) -> dict[str, float]:
        """Fill value of each conditioning tensor in the unconditional pass."""
        ...


class _Denoiser(nn.Module):
    """Noisy images (B, C, H, W), times (B,) and the condition by position -> prediction float32."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x: Tensor, t: Tensor, *condition: Tensor) -> tuple[Tensor]:
        return (self.network(x, t, **dict(zip(self.names, condition, strict=True))).float(),)


class _Text(nn.Module):
    """Indices of words int64 (B, L), -1 at padding -> embeddings float32 (B, L, D) and mask bool (B, L)."""

    def __init__(self, encoder: LearnedTextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        mask = words >= 0
        tokens, mask = self.encoder.embed(words.clamp(min=0), mask)
        return tokens, mask


class _Upsampler(nn.Module):
    """Small images float32 (B, C, h, w) -> large ones."""

    def __init__(self, upsample: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.upsample = upsample

    def forward(self, small: Tensor) -> tuple[Tensor]:
        return (self.upsample(small),)


class _CodeDecoder(nn.Module):
    """Codes (B, c, h, w) of latent diffusion -> images uint8 (B, C, H, W), and their values in [-1, 1]."""

    def __init__(self, decode: Callable[[Tensor], Tensor], latent: nn.Module) -> None:
        super().__init__()
        self.decode, self.latent = decode, latent

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        values = self.decode(latent)
        return round_image(values), values


def denoiser_graph(
    model: DenoisingModel, condition: Inputs, notes: tuple[str, ...] = (), **options: Any
) -> ExportGraph:
    """Return the graph of the denoiser, with the table of the sampler as an option.

    Args:
        model: whose network it is.
        condition: further inputs of the network by name, each with a function that returns examples.
        notes: of the graph.
        options: further options.
    """
    evaluations = tabulate(model.sampling, model.schedule, model.parameterization, model.guidance)
    image = (BATCH, *model.code_shape)
    if model.self_conditioning:
        x0 = TensorSpec("x0", "float32", image, "x0 of the last evaluation, clipped to [-1, 1]; zeros at the first")
        condition = {**condition, "x0": (x0, lambda sizes: torch.zeros(sizes[BATCH], *model.code_shape))}
    whole = all(isinstance(one.t, int) for one in evaluations)
    time = TensorSpec("t", "int64" if whole else "float32", (BATCH,), f"time, 0 to {model.schedule.num_steps - 1}")
    scaled = ", times the factor of each evaluation" if model.parameterization.prediction == "edm" else ""
    x = TensorSpec("x", "float32", image, "noisy images x_t = alpha x_0 + sigma eps" + scaled)
    channels = model.code_shape[0] * (2 if model.learned_variance else 1)
    meaning = model.parameterization.prediction + (", then v of the variance" if model.learned_variance else "")
    names = tuple(condition)

    def predict(x: Tensor, t: Tensor, *values: Tensor) -> tuple[Tensor]:
        given = dict(zip(names, values, strict=True))
        output, v = call_network(model.sampling_network, x, t, given, model.learned_variance)
        return (output if v is None else torch.cat([output, v], 1),)

    return ExportGraph(
        module=_Denoiser(model.sampling_network, names),
        inputs=(x, time, *(spec for spec, _ in condition.values())),
        outputs=(TensorSpec("prediction", "float32", (BATCH, channels, *model.code_shape[1:]), meaning),),
        resizing="none: images have the size of the training",
        options=_options(model, evaluations) | options,
        examples={"t": _times(evaluations, whole), **{name: example for name, (_, example) in condition.items()}},
        reference=predict,
        notes=notes,
    )


def code_decoder_graph(
    latent: nn.Module,
    decode: Callable[[Tensor], Tensor],
    code_shape: tuple[int, int, int],
    image_shape: tuple[int, int, int],
    num_classes: int | None,
) -> ExportGraph:
    """Return the graph that decodes the sampled codes of latent diffusion.

    Args:
        latent: has the weights of the decoder.
        decode: maps codes (B, *code_shape) of unit variance to images in [-1, 1].
        code_shape, image_shape: of codes and images.
        num_classes: of a model that samples by class.
    """
    return ExportGraph(
        module=_CodeDecoder(decode, latent),
        inputs=(TensorSpec("latent", "float32", (BATCH, *code_shape), "sampled codes, of unit variance"),),
        outputs=(
            TensorSpec("image", "uint8", (BATCH, *image_shape), "images, 0 to 255"),
            TensorSpec("values", "float32", (BATCH, *image_shape), "the same before rounding, -1 to 1"),
        ),
        resizing="none: images have the size of the training",
        options={"num_classes": num_classes},
        reference=lambda codes: (round_image(decode(codes)), decode(codes)),
    )


def _options(model: DenoisingModel, evaluations: list[Evaluation]) -> dict[str, Any]:
    """Return what a sampler must have besides the graph."""
    return {
        "prediction": model.parameterization.prediction,
        "threshold": model.sampling.threshold,
        "percentile": model.sampling.percentile,
        "num_classes": model.num_classes,
        "null": model.null_condition,
        "seeds": _SEEDS,
        "sampling": asdict(model.sampling),
        "evaluations": [asdict(one) for one in evaluations],
        "schedule": {"alphas": model.schedule.alphas[:-1].tolist(), "sigmas": model.schedule.sigmas[:-1].tolist()},
    }


def _times(evaluations: list[Evaluation], whole: bool) -> Example:
    """Return a function that returns times of the sampler, spread over all of them."""
    times = torch.tensor([one.t for one in evaluations], dtype=torch.int64 if whole else torch.float32)
    return lambda sizes: times[torch.linspace(0, len(times) - 1, sizes[BATCH] + 2)[1:-1].round().long()]


def text_inputs(dim: int) -> Inputs:
    """Return the inputs of token embeddings."""

    def mask(sizes: Mapping[str, int]) -> Tensor:
        lengths = sizes[TOKENS] - torch.arange(sizes[BATCH]) % sizes[TOKENS]
        return torch.arange(sizes[TOKENS]) < lengths[:, None]

    def text(sizes: Mapping[str, int]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(sizes[BATCH], sizes[TOKENS], dim, generator=generator) * mask(sizes)[..., None]

    embeddings = TensorSpec("text", "float32", (BATCH, TOKENS, dim), "token embeddings, zeros at padding")
    tokens = TensorSpec("text_mask", "bool", (BATCH, TOKENS), "true at tokens, false at padding")
    return {"text": (embeddings, text), "text_mask": (tokens, mask)}


def low_inputs(image_shape: tuple[int, int, int], num_steps: int) -> Inputs:
    """Return the inputs of small images, upsampled and noised, and of the time of that noise."""
    low = TensorSpec("low", "float32", (BATCH, *image_shape), "small images, upsampled, with the noise of options.low")
    time = TensorSpec("low_t", "int64", (BATCH,), f"time of that noise, 0 to {num_steps - 1}")

    def noisy(sizes: Mapping[str, int]) -> Tensor:
        return torch.randn(sizes[BATCH], *image_shape, generator=torch.Generator().manual_seed(1))

    return {"low": (low, noisy), "low_t": (time, lambda sizes: torch.arange(sizes[BATCH]) % num_steps)}


def text_notes(encoder: TextEncoder | None) -> tuple[str, ...]:
    """Return a note on a text encoder that is not exported."""
    if encoder is None or text_graphs(encoder):
        return ()
    return (
        f"model.text is {type(encoder).__name__}, whose weights are not the model's and are not exported; compute text and "
        "text_mask in Python by model.text(captions), and pass them to the denoiser as arrays",
    )


def text_graphs(encoder: TextEncoder | None) -> dict[str, ExportGraph]:
    """Return the graph of a text encoder that trains with the model; {} for a frozen one, whose weights are elsewhere."""
    if not isinstance(encoder, LearnedTextEncoder):
        return {}

    def words(sizes: Mapping[str, int]) -> Tensor:
        indices = torch.arange(sizes[BATCH] * sizes[TOKENS]).view(sizes[BATCH], -1) % (len(encoder.words) + 1)
        return indices.where(text_inputs(1)["text_mask"][1](sizes), -1)

    def embed(words: Tensor) -> tuple[Tensor, ...]:
        return tuple(encoder.embed(words.clamp(min=0), words >= 0))

    meaning = "row of each word in options.words, from 1; 0: another word; -1: padding at the end"
    graph = ExportGraph(
        module=_Text(encoder),
        inputs=(TensorSpec("words", "int64", (BATCH, TOKENS), meaning),),
        outputs=tuple(spec for spec, _ in text_inputs(encoder.dim).values()),
        resizing="none",
        options={
            "tokenization": r"words are the matches of the regular expression \w+ in the caption in lower case",
            "max_length": encoder.max_length,
            "words": list(encoder.words),
        },
        examples={"words": words},
        reference=embed,
    )
    return {"text": graph}


def upsampler_graph(
    upsample: Callable[[Tensor], Tensor], low_shape: tuple[int, int, int], image_shape: tuple[int, int, int]
) -> ExportGraph:
    """Return the graph that upsamples small images with noise to the network's input ``low``.

    Args:
        upsample: maps (B, *low_shape) to (B, *image_shape).
        low_shape, image_shape: of small and large images.
    """
    return ExportGraph(
        module=_Upsampler(upsample),
        inputs=(TensorSpec("small", "float32", (BATCH, *low_shape), "small images with noise"),),
        outputs=(TensorSpec("low", "float32", (BATCH, *image_shape), "upsampled bicubically"),),
        resizing="the graph upsamples",
        reference=lambda small: (upsample(small),),
    )
