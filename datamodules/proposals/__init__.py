"""Region proposals: the methods, their cache and their recall."""
