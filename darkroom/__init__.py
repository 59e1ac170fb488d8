"""Command line, run folder and errors of Darkroom."""

__version__ = "0.2.0"
