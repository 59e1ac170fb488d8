"""The front door of Darkroom: the command line, the run folder and the errors a user sees."""

__version__ = "0.2.0"
