"""Sections of a report by the task of a run."""
