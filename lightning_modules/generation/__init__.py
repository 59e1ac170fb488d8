"""Base of all models that generate images."""
