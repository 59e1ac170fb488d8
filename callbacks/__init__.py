"""What you see: drawing.py makes pictures of tensors, every other file a callback that shows one thing."""
