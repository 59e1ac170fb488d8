"""The base of all models that generate images."""
