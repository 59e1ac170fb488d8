"""Metrics that several families share: of generated images."""

from darkroom.lightning_modules.metrics.sample_scores import SampleScores

__all__ = ["SampleScores"]
