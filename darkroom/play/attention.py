"""Attention of text-to-image models to the words of a caption, as an output of the exported denoiser."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.lightning_modules.diffusion.blocks import Attention, record_text_attention
from darkroom.lightning_modules.diffusion.export import TOKENS
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage
from darkroom.protocols.export import BATCH, ExportGraph, TensorSpec

Size = tuple[int, int]


class _Graph(nn.Module):
    """Inputs of the denoiser -> its prediction (B, C, H, W) and the attention to tokens (B, L, H, W)."""

    def __init__(self, denoiser: nn.Module, size: Size) -> None:
        super().__init__()
        self.denoiser, self.size = denoiser, size

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        with record_text_attention(self.denoiser) as maps:
            (prediction,) = self.denoiser(*inputs)
        return prediction, _mean(maps, self.size)


class WordMaps:
    """A text-to-image model for export whose denoiser also returns attention maps.

    Args:
        model: whose network has attention to words.
    """

    def __init__(self, model: TextToImage) -> None:
        self.model = model

    def export_graphs(self, normalization: tuple[Sequence[float], Sequence[float]], /) -> Mapping[str, ExportGraph]:
        """Return the graphs of the model, the denoiser with the further output ``attention``."""
        graphs = self.model.export_graphs(normalization)
        denoiser, (_, *size) = graphs["denoiser"], self.model.image_shape
        assert denoiser.reference is not None
        predict = denoiser.reference
        height, width = size

        def reference(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            with record_text_attention(self.model.sampling_network) as maps:
                (prediction,) = predict(*inputs)
            return prediction, _mean(maps, (height, width))

        maps = TensorSpec("attention", "float32", (BATCH, TOKENS, height, width), "probability, mean over attentions")
        changed = replace(
            denoiser,
            module=_Graph(denoiser.module, (height, width)),
            outputs=(*denoiser.outputs, maps),
            reference=reference,
        )
        return {**graphs, "denoiser": changed}


def with_word_maps(model: TextToImage) -> WordMaps | None:
    """Return the model with attention maps; None: its network has no attention to words."""
    attends = any(isinstance(module, Attention) for module in model.sampling_network.modules())
    return WordMaps(model) if attends else None


def _mean(maps: Sequence[Tensor], size: Size) -> Tensor:
    """Return the mean of maps (B, L, h, w) at the size of the image."""
    return torch.stack([F.interpolate(one, size, mode="bilinear") for one in maps]).mean(0)
