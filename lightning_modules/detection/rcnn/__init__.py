"""R-CNN (Girshick et al. 2014): a fine-tuned network's features of proposals, linear SVMs, ridge regression of boxes."""

from darkroom.lightning_modules.detection.rcnn.network import RCNNNetwork
from darkroom.lightning_modules.detection.rcnn.svm_stage import Examples, HardNegatives, fit_boxes
from darkroom.lightning_modules.detection.rcnn.technique import RCNN, sample_windows

__all__ = ["RCNN", "Examples", "HardNegatives", "RCNNNetwork", "fit_boxes", "sample_windows"]
