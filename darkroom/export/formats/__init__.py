"""Formats of exported files: how a graph is traced and written, in which precision, and weights alone."""
