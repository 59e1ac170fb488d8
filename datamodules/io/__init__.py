"""Reading, downloading and hashing, shared by datamodules."""
