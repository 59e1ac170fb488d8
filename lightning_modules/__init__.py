"""LightningModules: a folder per family, a file per method. The command line finds subclasses of Technique by name."""
