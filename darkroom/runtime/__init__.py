"""Run folder, checkpoint files, loggers, cluster jobs, and the private names of Lightning."""
