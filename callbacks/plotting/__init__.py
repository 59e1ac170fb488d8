"""Pure functions from tensors to figures."""
