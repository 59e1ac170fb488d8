"""Class activation maps of classifiers whose last layers are average pooling and a linear layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from darkroom.lightning_modules.classification.image_classifier import ImageClassifier
from darkroom.lightning_modules.classification.networks import BackboneClassifier
from darkroom.lightning_modules.layers.body import Body
from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.protocols.export import BATCH, ExportGraph, TensorSpec


class _Graph(nn.Module):
    """Uint8 images (B, C, H, W) -> probabilities (B, K) and activation maps (B, K, h, w)."""

    def __init__(self, network: BackboneClassifier, normalization: tuple[Sequence[float], Sequence[float]]) -> None:
        super().__init__()
        self.normalize, self.network = ImageNormalization(*normalization), network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features, classifier = self.network.features, self.network.classifier
        image = self.normalize(image)
        maps = features.last_map(image) if isinstance(features, Body) else features(image)
        probabilities = classifier(maps.mean((2, 3))).float().softmax(1)
        # M_c = sum_k w_k^c f_k (Zhou et al. 2016, equation 2)
        return probabilities, torch.einsum("kc,bchw->bkhw", classifier[-1].weight, maps).float()


class ActivationMaps:
    """A classifier for export whose graph also returns class activation maps.

    Args:
        model: classifier.
        network: of the model, with a pooled head.
    """

    task: ClassVar[str] = "classification"

    def __init__(self, model: ImageClassifier, network: BackboneClassifier) -> None:
        self.model, self.network = model, network

    def export_graph(self, normalization: tuple[Sequence[float], Sequence[float]], /) -> ExportGraph:
        """Return the graph of the classifier with the further output ``activation``."""
        graph = self.model.export_graph(normalization)
        maps = TensorSpec("activation", "float32", (BATCH, self.model.num_classes, "rows", "columns"), "of each class")
        return replace(graph, module=_Graph(self.network, normalization), outputs=(*graph.outputs, maps))


def with_activation_maps(model: ImageClassifier, image: Tensor) -> ActivationMaps | None:
    """Return the model with activation maps; None: its last map has a single cell, or its head is another one.

    Args:
        model: in evaluation mode.
        image: normalized, float32 (1, C, H, W).
    """
    network = model.evaluated_network
    if not isinstance(network, BackboneClassifier) or not network.pooled:
        return None
    with torch.no_grad():
        maps = network.features.last_map(image) if isinstance(network.features, Body) else network.features(image)
    return ActivationMaps(model, network) if min(maps.shape[-2:]) > 1 else None
