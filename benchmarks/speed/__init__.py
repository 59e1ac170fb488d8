"""Speed beside peers on the same work."""
