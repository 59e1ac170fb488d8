"""Scores that several families share: of drawn pictures, and of latent codes."""

from lightning_modules.metrics.disentanglement import MutualInformationGap
from lightning_modules.metrics.sample_scores import SampleScores

__all__ = ["MutualInformationGap", "SampleScores"]
