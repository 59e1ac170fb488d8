"""Speed against peers on the same work: ``make bench`` or ``python -m benchmarks``."""
