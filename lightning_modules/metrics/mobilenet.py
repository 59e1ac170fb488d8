"""MobileNet: the feature network of ``mobilenet_fid``; its weights are in a package."""

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from darkroom.lightning_modules.layers.pretrained import IMAGENET, fetch_imagenet_weights
from darkroom.lightning_modules.metrics.feature_network import ClassifyingFeatureNetwork

_SIDE = 224
_BATCH = 64  # images at once: the widest map has 4.8 MB each


class MobileNet(ClassifyingFeatureNetwork):
    """MobileNetV2 with torchvision's ImageNet weights: features of the last pooling, images scaled to 224 x 224.

    Its Frechet distance is not comparable with published FIDs. It ranks models on the same images, with the same number
    of samples.

    Raises:
        UsageError: the weights are missing and cannot be downloaded; names the command that gets them.
    """

    num_features = 1280
    prefix = "mobilenet_"
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = torchvision.models.mobilenet_v2()
        self.network.load_state_dict(fetch_imagenet_weights("mobilenet_v2", "model.scores.features mobilenet"))
        for name, values in zip(("mean", "std"), IMAGENET.tensors(), strict=True):
            self.register_buffer(name, values)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        """Compute features (B, 1280) of images, uint8 (B, 3 or 1, H, W); grey images are repeated to three channels."""
        return torch.cat([self._features(part) for part in images.expand(-1, 3, -1, -1).split(_BATCH)])

    def _features(self, images: Tensor) -> Tensor:
        scaled = F.interpolate(images.float() / 255, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        return self.network.features((scaled - self.mean) / self.std).mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (B, 1000) of features (B, 1280)."""
        return self.network.classifier(features)
