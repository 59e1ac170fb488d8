"""Recorders of the results of ``darkroom test``, a file per task."""
