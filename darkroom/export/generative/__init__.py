"""Sampling with exported generative models."""
