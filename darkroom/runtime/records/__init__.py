"""Files of a run, beside its checkpoints: record of the fit, results of tests, tables."""
