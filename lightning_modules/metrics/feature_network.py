"""Networks whose features FID, KID and Inception score compare."""

from typing import ClassVar

from torch import Tensor, nn


class FeatureNetwork(nn.Module):
    """Base of the networks that compute features of images for metrics of samples.

    Attributes:
        num_features: number of features of an image.
        prefix: of the metrics' names, since values of different networks cannot be compared; empty for Inception, whose
            metrics are the published ones.
    """

    num_features: int
    prefix: ClassVar[str]

    def features(self, images: Tensor) -> Tensor:
        """Compute features of images, uint8 (B, C, H, W) -> float32 (B, num_features)."""
        raise NotImplementedError


class ClassifyingFeatureNetwork(FeatureNetwork):
    """Base of feature networks that also classify."""

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (B, K) of features (B, num_features)."""
        raise NotImplementedError
