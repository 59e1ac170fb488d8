"""TextConditioning: conditions a diffusion network on captions."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.base import Condition, check_fractions
from darkroom.lightning_modules.diffusion.text import Text, TextEncoder
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.utils.arguments import build_options


def check_captions(captions: Sequence[str]) -> list[str]:
    """Return captions as a list.

    Raises:
        UsageError: captions are empty, a single string, or not strings.
    """
    if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
        raise UsageError(f"captions must be a list of strings, such as ['a red circle'], got {captions!r}")
    if not len(captions):
        raise UsageError("captions are empty; give at least one, such as ['a red circle']")
    return list(captions)


class TextConditioning(nn.Module):
    """Text encoder with the EMA of its weights, if they train, and caption dropout.

    Args:
        encoder: encodes captions as tokens.
        dropout: fraction of the captions, in [0, 1), that are dropped in training, for guidance (Saharia et al. 2022,
            sections 2.2 and 4.1).
        ema: of the encoder's weights if they train; None: none.
    """

    encoder: TextEncoder
    null_condition: ClassVar[dict[str, float]] = {"text": 0.0, "text_mask": False}

    def __init__(self, encoder: TextEncoder, dropout: float, ema: EMAOptions | None) -> None:
        super().__init__()
        check_fractions(text_dropout=dropout)
        self.encoder, self.dropout = encoder, dropout
        self.ema = EMA(encoder, build_options(EMAOptions, ema).decay) if encoder.trains and ema is not None else None

    @property
    def sampling_encoder(self) -> TextEncoder:
        """Text encoder that is used in sampling: the EMA of the weights, if there is one."""
        if self.ema is None:
            return self.encoder
        encoder = self.ema.module
        assert isinstance(encoder, TextEncoder)
        return encoder

    def keep_ema_only(self) -> None:
        """Replace the weights by the EMA weights, for a model that only samples."""
        self.encoder, self.ema = self.sampling_encoder, None

    def forward(self, captions: Sequence[str], device: torch.device) -> Condition:
        """Encode B captions as ``text`` float32 (B, L, dim) and ``text_mask`` bool (B, L); drop some in training."""
        text: Text = (self.encoder if self.training else self.sampling_encoder)(captions)
        tokens, mask = (part.to(device, non_blocking=True) for part in text)
        if self.training and self.dropout:
            kept = torch.rand(len(mask), 1, dtype=torch.float32, device=device) >= self.dropout
            tokens, mask = tokens * kept[:, :, None], mask & kept
        return {"text": tokens, "text_mask": mask}


def captions_of(batch: dict[str, Any], model: nn.Module) -> list[str]:
    """Return a batch's captions.

    Raises:
        UsageError: the batch has no captions.
    """
    if "caption" not in batch:
        raise UsageError(
            f"{type(model).__name__} needs captions, but the batch has no 'caption'; use data with "
            "captions (ShapesCaptions, CaptionFolder, CocoCaptions; in predict: --data Prompts --data.captions "
            "'[\"a red circle\"]')"
        )
    return check_captions(batch["caption"])
