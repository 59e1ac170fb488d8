"""Measured results of the methods, and their figures."""
