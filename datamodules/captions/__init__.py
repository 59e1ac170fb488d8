"""Datamodules of images with captions, and of prompts alone."""

from darkroom.datamodules.captions.caption_folder import CaptionFolder
from darkroom.datamodules.captions.coco_captions import CocoCaptions
from darkroom.datamodules.captions.prompts import Prompts
from darkroom.datamodules.captions.shards.web_shards import ShardedCaptions

__all__ = ["CaptionFolder", "CocoCaptions", "Prompts", "ShardedCaptions"]
