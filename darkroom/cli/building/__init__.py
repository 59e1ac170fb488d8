"""Command lines that build the objects of a config and train nothing."""
