"""Helpers that are not layers: loading weights, precision, random numbers, distribution."""
