"""Reading, downloading and hashing: what datamodules share below the level of a dataset."""
