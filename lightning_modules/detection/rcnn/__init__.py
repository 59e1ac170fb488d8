"""R-CNN (Girshick et al. 2014): features of proposals by a fine-tuned network, linear SVMs, ridge regression of boxes."""

from darkroom.lightning_modules.detection.rcnn.network import RCNNNetwork
from darkroom.lightning_modules.detection.rcnn.rcnn import RCNN
from darkroom.lightning_modules.detection.rcnn.sampling import sample_windows
from darkroom.lightning_modules.detection.rcnn.svm_stage import (
    BoxRegressionOptions,
    Examples,
    HardNegatives,
    SVMOptions,
    fit_boxes,
)

__all__ = [
    "RCNN",
    "BoxRegressionOptions",
    "Examples",
    "HardNegatives",
    "RCNNNetwork",
    "SVMOptions",
    "fit_boxes",
    "sample_windows",
]
