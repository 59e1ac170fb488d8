"""Vector files of pages of images."""
