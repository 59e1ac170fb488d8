"""Metrics of images that were generated from text or from smaller images."""

from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.diffusion.metrics.upsampling_scores import UpsamplingScores

__all__ = ["CaptionScores", "UpsamplingScores"]
