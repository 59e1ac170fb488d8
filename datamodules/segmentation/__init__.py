"""Datamodules of images with a mask each."""
