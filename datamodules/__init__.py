"""What a technique learns from: a file per data set. A class that derives from VisionDataModule is found by its name."""
