"""StageText: the text encoder of a trained base model, for the stages after it."""

from collections.abc import Sequence

import torch

from darkroom.errors import UsageError
from lightning_modules.diffusion.imagen.stages import trained_stage
from lightning_modules.diffusion.imagen.text_to_image import TextToImage
from lightning_modules.diffusion.text import Text, TextEncoder


class StageText(TextEncoder):
    """The encoder that a base model has learned, as it reads for drawing; it trains no further.

    Args:
        checkpoint: of a TextToImage.

    Raises:
        UsageError: no checkpoint of one.
    """

    def __init__(self, checkpoint: str) -> None:
        encoder = trained_stage(checkpoint, TextToImage, "model.text.checkpoint").text
        if not encoder.trains:
            raise UsageError(
                f"model.text.checkpoint {checkpoint} reads with {type(encoder).__name__}, which is frozen already; give it "
                "as model.text here, too"
            )
        super().__init__(encoder.dim, encoder.max_length)
        self.encoder = encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "StageText":
        """Leaves the encoder as it was trained."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, captions: Sequence[str]) -> Text:
        return self.encoder(captions)

    def tokens_of(self, caption: str) -> list[str]:
        return self.encoder.tokens_of(caption)
