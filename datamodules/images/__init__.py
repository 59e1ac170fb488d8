"""Datamodules of images with a class label each."""
