"""Run folder, checkpoint files, loggers, cluster jobs, and private names of Lightning."""
