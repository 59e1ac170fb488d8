"""What you see: drawing*.py and latent_views.py make pictures of tensors, every other file a callback."""
