"""Speed beside peers on the same work: ``make bench`` or ``python -m benchmarks``."""
