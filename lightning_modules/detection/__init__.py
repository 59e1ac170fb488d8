"""Object detection: a box and a class for every object."""

from lightning_modules.detection.base import ObjectDetection

__all__ = ["ObjectDetection"]
