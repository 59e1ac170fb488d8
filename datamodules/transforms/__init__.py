"""Transforms of samples that torchvision lacks."""
