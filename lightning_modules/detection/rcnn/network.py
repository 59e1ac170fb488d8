"""RCNNNetwork: a classifier of crops, and linear models on its features."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.lightning_modules.layers.backbones import Classifier, zero_bias
from darkroom.lightning_modules.layers.body import AnyBackbone, Body, build_backbone, is_body
from darkroom.lightning_modules.layers.pretrained import Weights, imagenet_weights, load_all_but_last_layer
from darkroom.lightning_modules.utils.arguments import check_choice


class RCNNNetwork(nn.Module):
    """Classifier of crops with a linear SVM and a box regression per class on its hidden layers, fitted after training.

    (P, 3, window, window) -> logits (P, K + 1), background first. Parameters are named as torchvision's.

    pool5, the input of the box regression, is the last map of a crop. fc7, the input of the SVMs and of the last layer, is
    the second hidden layer of AlexNet and VGG. The other backbones have no hidden layer: there it is the global average of
    pool5.

    Args:
        num_classes: K, without the background.
        backbone: AlexNet, CaffeNet, a VGG, a ResNet, MobileNetV2 or EfficientNet-Lite0.
        window: side of the crops in pixels.
        width: factor on the channels of every layer.
        weights: imagenet: start from ImageNet weights, except the last layer, at width 1.
    """

    features: nn.Sequential | Body

    svm: Tensor
    regression: Tensor
    ready: Tensor

    def __init__(
        self,
        num_classes: int = 20,
        backbone: AnyBackbone = "alexnet",
        window: int = 227,
        width: float = 1.0,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        check_choice("model.backbone", backbone, AnyBackbone)
        self.num_classes = num_classes
        if is_body(backbone):
            self.features = build_backbone(backbone, levels=(5,), width=width, weights=weights)
            channels = self.features.channels[-1]
            self.classifier = nn.Sequential(nn.Linear(channels, num_classes + 1))
            pool5 = channels * math.ceil(window / 32) ** 2
        else:
            classifier = Classifier(backbone, num_classes + 1, window, width=width)
            if weights == "imagenet":
                load_all_but_last_layer(classifier, imagenet_weights(backbone, width, 3))
            self.features, self.classifier = classifier.features, classifier.classifier
            pool5 = classifier.first.in_features
        nn.init.normal_(self.last.weight, std=0.01)
        zero_bias(self.last)
        self.register_buffer("svm", torch.zeros(num_classes, self.last.in_features + 1))
        self.register_buffer("regression", torch.zeros(num_classes, 4, pool5 + 1))
        self.register_buffer("ready", torch.zeros(2, dtype=torch.bool))  # SVMs and box regression are solved

    @property
    def last(self) -> nn.Linear:
        """Last layer, whose outputs are the logits."""
        layer = self.classifier[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, crops: Tensor) -> Tensor:
        return self.classifier(self._vectors(self._maps(crops)))

    def hidden(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Compute pool5 (P, D5), the output of the convolutions, and fc7 (P, D7), the input of the last layer."""
        maps = self._maps(crops)
        return maps.flatten(1), self.classifier[:-1](self._vectors(maps))

    def _maps(self, crops: Tensor) -> Tensor:
        """Compute the last map (P, C, h, w) of crops."""
        return self.features.last_map(crops) if isinstance(self.features, Body) else self.features(crops)

    def _vectors(self, maps: Tensor) -> Tensor:
        """Compute the input of the linear layers from the last map."""
        return maps.mean((2, 3)) if isinstance(self.features, Body) else maps.flatten(1)

    @property
    def solved(self) -> tuple[bool, bool]:
        """True for the SVMs, and for the box regression, once they are solved."""
        svm, regression = self.ready.tolist()
        return svm, regression

    def classify_crops(self, crops: Tensor, solved: tuple[bool, bool] | None = None) -> tuple[Tensor, Tensor | None]:
        """Compute scores (P, K) in [0, 1] and offsets of boxes (P, K, 4), None before the box regression is solved.

        The scores are the SVMs' through a sigmoid, which keeps their order; before the SVMs are solved, the softmax's.

        Args:
            crops: (P, 3, window, window), normalized.
            solved: the property of this name, for a traced graph, in which buffers have no values.
        """
        pool5, fc7 = self.hidden(crops)
        svm, regression = solved or self.solved
        scores = _affine(fc7, self.svm).sigmoid() if svm else self.last(fc7).float().softmax(1)[:, 1:]
        offsets = _affine(pool5, self.regression.flatten(0, 1)).unflatten(1, (-1, 4)) if regression else None
        return scores, offsets


def _affine(x: Tensor, weights: Tensor) -> Tensor:
    """Apply weights (M, D + 1), whose last column is the bias, to x (P, D), in float32 under any precision."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weights[:, :-1].float(), weights[:, -1].float())
