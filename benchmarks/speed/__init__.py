"""Speed beside that of peers doing the same work."""
