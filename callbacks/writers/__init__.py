"""Callbacks that write predictions as files."""
