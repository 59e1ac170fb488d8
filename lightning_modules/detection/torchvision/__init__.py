"""Parts that Faster R-CNN, Mask R-CNN and SSD share with torchvision's detectors."""
