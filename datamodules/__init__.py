"""Datamodules, a file per data set. The command line finds classes that derive from VisionDataModule by name."""
