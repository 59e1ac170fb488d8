"""What you see: drawing.py and drawing_boxes.py make pictures of tensors, every other file a callback."""
