"""Reader: what a network is told of captions."""

from collections.abc import Sequence

import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.base import Condition, check_fractions
from darkroom.lightning_modules.diffusion.text import TextEncoder
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.utils.arguments import build_options


def check_captions(captions: Sequence[str]) -> list[str]:
    """The captions as a list.

    Raises:
        UsageError: none are given, one string is given for several, or something that is no string.
    """
    if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
        raise UsageError(f"captions are {captions!r}; give a list of strings, such as ['a red circle']")
    if not len(captions):
        raise UsageError("no captions were given; give one at least, such as ['a red circle']")
    return list(captions)


class Reader(nn.Module):
    """A text encoder, the average of its weights if they train, and the dropping of captions.

    Args:
        encoder: captions -> tokens.
        dropout: part of the captions, in [0, 1), that are learned as none, for guidance (Saharia et al. 2022, section 2.2).
        ema: of the encoder's weights, if they train; None: none.
    """

    null = {"text": 0.0, "text_mask": False}

    def __init__(self, encoder: TextEncoder, dropout: float, ema: EMAOptions | None) -> None:
        super().__init__()
        check_fractions(text_dropout=dropout)
        self.encoder, self.dropout = encoder, dropout
        self.ema = EMA(encoder, build_options(EMAOptions, ema).decay) if encoder.trains and ema is not None else None

    @property
    def averaged(self) -> TextEncoder:
        """The encoder that reads for drawing: the average, if there is one."""
        return self.encoder if self.ema is None else self.ema.module

    def only_average(self) -> None:
        """Makes the average the encoder: to draw, and nothing else."""
        self.encoder, self.ema = self.averaged, None

    def forward(self, captions: Sequence[str], device: torch.device) -> Condition:
        """What captions, B of them, tell a network: ``text`` float32 (B, L, dim) and ``text_mask`` bool (B, L). In training
        some are told as none."""
        text = (self.encoder if self.training else self.averaged)(captions)
        tokens, mask = (part.to(device, non_blocking=True) for part in text)
        if self.training and self.dropout:
            kept = torch.rand(len(mask), 1, dtype=torch.float32, device=device) >= self.dropout
            tokens, mask = tokens * kept[:, :, None], mask & kept
        return {"text": tokens, "text_mask": mask}


def captions_of(batch: dict[str, object], model: nn.Module) -> list[str]:
    """A batch's captions.

    Raises:
        UsageError: it has none.
    """
    if "caption" not in batch:
        raise UsageError(
            f"{type(model).__name__} learns pictures with captions, but the batch has no 'caption'; use data with "
            "them (ShapesCaptions, CaptionFolder, CocoCaptions; in predict: --data Prompts --data.captions "
            "'[\"a red circle\"]')"
        )
    return check_captions(batch["caption"])
