"""Formats of annotation files: COCO, PASCAL VOC and YOLO."""
