"""Image classification: a class for every image."""

from darkroom.lightning_modules.classification.grad_cam import grad_cam
from darkroom.lightning_modules.classification.image_classifier import ImageClassifier
from darkroom.lightning_modules.classification.metrics import ClassificationScores
from darkroom.lightning_modules.classification.networks import BackboneClassifier

__all__ = ["BackboneClassifier", "ClassificationScores", "ImageClassifier", "grad_cam"]
