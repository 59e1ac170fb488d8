"""RCNNNetwork: a classifier of crops, and linear models on its features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.lightning_modules.layers.backbones import Backbone, Classifier, zero_bias


class RCNNNetwork(Classifier):
    """Classifier of crops with a linear SVM and a box regression per class on its hidden layers, fitted after training.

    (P, 3, window, window) -> logits (P, K + 1), background first. Parameters are named as torchvision's.

    Args:
        num_classes: K, without the background.
        backbone: AlexNet, CaffeNet or a VGG.
        window: side of the crops in pixels.
        width: factor on the channels of every layer.
    """

    svm: Tensor
    regression: Tensor
    ready: Tensor

    def __init__(
        self, num_classes: int = 20, backbone: Backbone = "alexnet", window: int = 227, width: float = 1.0
    ) -> None:
        super().__init__(backbone, num_classes + 1, window, width=width)
        self.num_classes = num_classes
        nn.init.normal_(self.last.weight, std=0.01)
        zero_bias(self.last)
        self.register_buffer("svm", torch.zeros(num_classes, self.last.in_features + 1))
        self.register_buffer("regression", torch.zeros(num_classes, 4, self.first.in_features + 1))
        self.register_buffer("ready", torch.zeros(2, dtype=torch.bool))  # SVMs and box regression are solved

    def hidden(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Compute pool5 (P, D5), the output of the convolutions, and fc7 (P, D7), the input of the last layer."""
        pool5 = self.features(crops).flatten(1)
        return pool5, self.classifier[:-1](pool5)

    def classify_crops(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute scores (P, K) in [0, 1] and offsets of boxes (P, K, 4), None before the box regression is solved.

        The scores are the SVMs' through a sigmoid, which keeps their order; before the SVMs are solved, the softmax's.
        """
        pool5, fc7 = self.hidden(crops)
        svm, regression = self.ready.tolist()
        scores = _affine(fc7, self.svm).sigmoid() if svm else self.last(fc7).float().softmax(1)[:, 1:]
        offsets = _affine(pool5, self.regression.flatten(0, 1)).unflatten(1, (-1, 4)) if regression else None
        return scores, offsets


def _affine(x: Tensor, weights: Tensor) -> Tensor:
    """Apply weights (M, D + 1), whose last column is the bias, to x (P, D), in float32 under any precision."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weights[:, :-1].float(), weights[:, -1].float())
