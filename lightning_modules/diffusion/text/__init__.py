"""Text: captions as token embeddings."""

from lightning_modules.diffusion.text.encoder import Text, TextEncoder
from lightning_modules.diffusion.text.pretrained import T5, MiniLM
from lightning_modules.diffusion.text.words import Words

__all__ = ["T5", "MiniLM", "Text", "TextEncoder", "Words"]
