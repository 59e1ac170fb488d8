"""Layers that two families or more use."""
