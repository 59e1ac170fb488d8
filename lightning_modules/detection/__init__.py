"""Object detection: a box and a class for every object."""

from lightning_modules.detection.base import ObjectDetection
from lightning_modules.detection.fast_rcnn import FastRCNN, FastRCNNNetwork
from lightning_modules.detection.sliding_window import SlidingWindow, WindowClassifier

__all__ = ["FastRCNN", "FastRCNNNetwork", "ObjectDetection", "SlidingWindow", "WindowClassifier"]
