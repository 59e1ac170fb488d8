"""Plan of a training before it runs: parameters, FLOPs, memory, time and cost, without weights and without data."""
