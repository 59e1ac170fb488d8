"""Runs read back from their folders: their list, reports and comparisons."""
