"""Exported models: written, checked against ``predict``, and run without the code of their method."""
