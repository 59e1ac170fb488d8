"""Datamodules, one file per data set. The command line finds subclasses of VisionDataModule by name."""
