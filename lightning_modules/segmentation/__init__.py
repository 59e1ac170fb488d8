"""Semantic segmentation: a class for every pixel."""

from lightning_modules.segmentation.base import SemanticSegmentation
from lightning_modules.segmentation.losses import CrossEntropy
from lightning_modules.segmentation.metrics import SegmentationScores
from lightning_modules.segmentation.unet import UNet, UNetNetwork

__all__ = ["CrossEntropy", "SegmentationScores", "SemanticSegmentation", "UNet", "UNetNetwork"]
