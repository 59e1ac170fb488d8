"""Datamodules of images with masks."""

from darkroom.datamodules.segmentation.camvid import CamVid
from darkroom.datamodules.segmentation.chair_segments import ChairSegments
from darkroom.datamodules.segmentation.cityscapes import Cityscapes
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.datamodules.segmentation.oxford_pets import OxfordPets
from darkroom.datamodules.segmentation.voc_segmentation import VOCSegmentation

__all__ = ["CamVid", "ChairSegments", "Cityscapes", "ImageMaskFolder", "OxfordPets", "VOCSegmentation"]
