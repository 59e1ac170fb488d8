"""Datamodules of images with boxes and, optionally, instance masks."""

from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.detection.instance_folder import InstanceFolder
from darkroom.datamodules.detection.penn_fudan import PennFudan
from darkroom.datamodules.detection.voc_detection import VOCDetection
from darkroom.datamodules.detection.voc_folder import VOCFolder
from darkroom.datamodules.detection.yolo_folder import YoloFolder

__all__ = ["CocoDetection", "InstanceFolder", "PennFudan", "VOCDetection", "VOCFolder", "YoloFolder"]
