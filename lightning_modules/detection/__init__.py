"""Object detection: a box and a class for every object."""

from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.fast_rcnn import FastRCNN, FastRCNNNetwork
from darkroom.lightning_modules.detection.faster_rcnn import FasterRCNN
from darkroom.lightning_modules.detection.mask_rcnn import MaskRCNN
from darkroom.lightning_modules.detection.metrics import COCOScores, VOCScores
from darkroom.lightning_modules.detection.rcnn import RCNN
from darkroom.lightning_modules.detection.sliding_window import SlidingWindow, WindowClassifier
from darkroom.lightning_modules.detection.ssd import SSD, SSDNetwork
from darkroom.lightning_modules.detection.yolo import YOLO, YOLONetwork, yolo_loss

__all__ = [
    "RCNN",
    "SSD",
    "YOLO",
    "COCOScores",
    "FastRCNN",
    "FastRCNNNetwork",
    "FasterRCNN",
    "MaskRCNN",
    "ObjectDetection",
    "SSDNetwork",
    "SlidingWindow",
    "VOCScores",
    "WindowClassifier",
    "YOLONetwork",
    "yolo_loss",
]
