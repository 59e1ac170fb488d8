"""Datamodules of images with captions, and of prompts alone."""
