"""Callbacks: figures (loggers), predictions (writers), plotting functions and training."""
