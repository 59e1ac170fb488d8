"""Parts that two families or more are made of."""
