"""Callbacks of every fit: resume, stop, checkpoints, progress, throughput."""
