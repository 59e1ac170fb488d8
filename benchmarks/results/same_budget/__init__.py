"""All methods of a family on the same data for the same time."""
