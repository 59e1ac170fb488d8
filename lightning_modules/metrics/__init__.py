"""Scores that several families share: of drawn pictures, and of latent codes."""

from darkroom.lightning_modules.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.metrics.disentanglement import MutualInformationGap
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from darkroom.lightning_modules.metrics.upsampling_scores import UpsamplingScores

__all__ = ["CaptionScores", "MutualInformationGap", "SampleScores", "UpsamplingScores"]
