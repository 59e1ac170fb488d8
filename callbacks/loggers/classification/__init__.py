"""Figures of image classification."""
