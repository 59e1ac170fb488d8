"""The pretrained feature networks by name."""

from typing import Literal

from darkroom.lightning_modules.metrics.feature_network import FeatureNetwork
from darkroom.lightning_modules.metrics.inception import Inception
from darkroom.lightning_modules.metrics.mobilenet import MobileNet

PretrainedFeatures = Literal["mobilenet", "inception"]


def build_pretrained_features(name: PretrainedFeatures, inception_weights: str | None) -> FeatureNetwork:
    """Build ``MobileNet`` or ``Inception``.

    Args:
        name: of the network.
        inception_weights: see ``Inception``.

    Raises:
        UsageError: a package or the weights are missing.
    """
    return MobileNet() if name == "mobilenet" else Inception(inception_weights)
