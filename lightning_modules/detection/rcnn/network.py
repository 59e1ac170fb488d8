"""RCNNNetwork: a classifier of crops, and what is learned on its features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.lightning_modules.layers.backbones import Backbone, Classifier


class RCNNNetwork(Classifier):
    """A classifier of crops; on its hidden layers, once they are trained, a linear SVM and a box regression per class.

    (P, 3, window, window) -> logits (P, K + 1), background first. Parameters are named as torchvision's.

    Args:
        num_classes: K, without the background.
        backbone: AlexNet or a VGG.
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
        nn.init.normal_(self.classifier[-1].weight, std=0.01)
        nn.init.zeros_(self.classifier[-1].bias)
        first, *_, last = self._linears()
        self.register_buffer("svm", torch.zeros(num_classes, last.in_features + 1))
        self.register_buffer("regression", torch.zeros(num_classes, 4, first.in_features + 1))
        self.register_buffer("ready", torch.zeros(2, dtype=torch.bool))  # the two

    def hidden(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """pool5 (P, D5), what the convolutions end with, and fc7 (P, D7), what the last layer sees."""
        pool5 = self.features(crops).flatten(1)
        return pool5, self.classifier[:-1](pool5)

    def judge(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (P, K) in [0, 1] and offsets of boxes (P, K, 4), or None while there is no box regression.

        The scores are the SVMs' through a sigmoid, which leaves their order, and the softmax's while there are no SVMs.
        """
        pool5, fc7 = self.hidden(crops)
        svm, regression = self.ready.tolist()
        scores = _affine(fc7, self.svm).sigmoid() if svm else self.classifier[-1](fc7).float().softmax(1)[:, 1:]
        offsets = _affine(pool5, self.regression.flatten(0, 1)).unflatten(1, (-1, 4)) if regression else None
        return scores, offsets


def _affine(x: Tensor, weights: Tensor) -> Tensor:
    """x (P, D) through weights (M, D + 1), the last of them constants, in float32 under any precision."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weights[:, :-1].float(), weights[:, -1].float())
