"""The command line: parser, checks of a config, linking of data and model, console messages."""
