"""Adversarial networks: a generator that learns to please a discriminator."""

from darkroom.lightning_modules.adversarial.dcgan import DCGAN, DCGANDiscriminator, DCGANGenerator

__all__ = ["DCGAN", "DCGANDiscriminator", "DCGANGenerator"]
