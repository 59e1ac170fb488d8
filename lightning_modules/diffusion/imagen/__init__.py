"""Imagen (Saharia et al. 2022): text-to-image and super-resolution models, and their cascade."""

from darkroom.lightning_modules.diffusion.imagen.cascade import ImagenCascade
from darkroom.lightning_modules.diffusion.imagen.super_resolution import SuperResolution
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage

__all__ = ["ImagenCascade", "SuperResolution", "TextToImage"]
