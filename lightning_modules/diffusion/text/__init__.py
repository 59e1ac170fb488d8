"""Text: captions as token embeddings."""

from darkroom.lightning_modules.diffusion.text.encoder import Text, TextEncoder
from darkroom.lightning_modules.diffusion.text.learned import LearnedTextEncoder
from darkroom.lightning_modules.diffusion.text.pretrained import T5, MiniLM

__all__ = ["T5", "LearnedTextEncoder", "MiniLM", "Text", "TextEncoder"]
