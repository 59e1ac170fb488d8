"""Exercises of each lesson, as data: a module per lesson with the tuple ``EXERCISES``."""
