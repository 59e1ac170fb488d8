"""Counting of a training step without its weights and data: batch, step, work, bytes."""
