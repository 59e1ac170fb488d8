"""Callbacks that log figures."""
