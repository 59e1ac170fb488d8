"""Classifiers of noisy images, and guidance of a diffusion model by one."""

from darkroom.lightning_modules.diffusion.classifier.network import EncoderClassifier
from darkroom.lightning_modules.diffusion.classifier.noisy_classifier import NoisyClassifier

__all__ = ["EncoderClassifier", "NoisyClassifier"]
