"""Samplers, guidance and inpainting."""
