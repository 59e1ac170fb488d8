"""Shapes, the synthetic dataset, for every family of methods."""

from darkroom.datamodules.shapes.captions import ShapesCaptions
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation

__all__ = ["ShapesCaptions", "ShapesDetection", "ShapesImages", "ShapesSegmentation"]
