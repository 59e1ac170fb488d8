"""Latent diffusion."""

from darkroom.lightning_modules.diffusion.latent.latent_space import LatentSpace

__all__ = ["LatentSpace"]
