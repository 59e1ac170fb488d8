"""Command line: parser, config checks, linking of data and model, console messages."""
