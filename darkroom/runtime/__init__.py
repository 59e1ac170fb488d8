"""What surrounds a run: its folder, checkpoints, loggers, signals' exit codes and the cluster."""
