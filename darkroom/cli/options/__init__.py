"""Options that several commands share, and defaults of options."""
