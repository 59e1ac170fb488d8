"""Datamodules of images with boxes and perhaps instance masks."""
