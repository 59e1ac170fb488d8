"""One short visit to a GPU machine: what must be right, then what must be fast."""
