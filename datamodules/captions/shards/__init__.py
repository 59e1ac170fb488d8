"""Captioned images in WebDataset's tar shards."""
