"""Attention of text-to-image models to the words of a caption, as an output of the exported denoiser."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.export.formats.trace import example_inputs
from darkroom.lightning_modules.diffusion.blocks import record_text_attention
from darkroom.lightning_modules.diffusion.export import TOKENS
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage
from darkroom.protocols.export import BATCH, ExportGraph, TensorSpec

Denoise = Callable[..., tuple[Tensor, ...]]


class _Graph(nn.Module):
    """Inputs of the denoiser -> its prediction (B, C, H, W) and the attention to tokens (B, L, H, W)."""

    def __init__(self, denoiser: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.denoiser, self.size = denoiser, size

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return denoise_with_attention(self.denoiser, self.denoiser, inputs, self.size)


class WordMaps:
    """Text-to-image model for export whose denoiser also returns attention maps, if its network attends to words.

    Args:
        model: as it was trained.
    """

    def __init__(self, model: TextToImage) -> None:
        self.model = model

    def export_graphs(self, normalization: tuple[Sequence[float], Sequence[float]], /) -> Mapping[str, ExportGraph]:
        """Return the graphs of the model, the denoiser with the further output ``attention``."""
        graphs, network = self.model.export_graphs(normalization), self.model.sampling_network
        denoiser, (_, height, width) = graphs["denoiser"], self.model.image_shape
        predict = denoiser.reference
        assert predict is not None, "every part of an exported method has a reference"
        with torch.no_grad(), record_text_attention(network) as recorded:
            predict(*example_inputs(denoiser, {BATCH: 1, TOKENS: 2}))
        if not recorded:
            return graphs
        spec = TensorSpec("attention", "float32", (BATCH, TOKENS, height, width), "mean over heads and layers, 0 to 1")
        changed = replace(
            denoiser,
            module=_Graph(denoiser.module, (height, width)),
            outputs=(*denoiser.outputs, spec),
            reference=lambda *inputs: denoise_with_attention(network, predict, inputs, (height, width)),
        )
        return {**graphs, "denoiser": changed}


def denoise_with_attention(
    network: nn.Module, denoise: Denoise, inputs: Sequence[Tensor], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the prediction (B, C, H, W), and the mean over layers of the attention to tokens, (B, L, *size).

    Args:
        network: contains the attentions.
        denoise: maps the inputs to the prediction, by the network.
        inputs: of the denoiser.
        size: height and width of the maps.
    """
    with record_text_attention(network) as recorded:
        (prediction,) = denoise(*inputs)
    maps = [F.interpolate(layer, size, mode="bilinear") for layer in recorded]
    return prediction, torch.stack(maps).mean(0)
