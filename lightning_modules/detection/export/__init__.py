"""Graphs of detection for ``darkroom export``: the selection of detections for a whole batch at once."""
