"""LaTeX document of a run, to be filled with text."""
