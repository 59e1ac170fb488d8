"""Results of the methods, and the figures made of them."""
