"""Generative adversarial networks."""

from darkroom.lightning_modules.adversarial.dcgan import DCGAN, DCGANDiscriminator, DCGANGenerator

__all__ = ["DCGAN", "DCGANDiscriminator", "DCGANGenerator"]
