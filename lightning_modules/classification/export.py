"""Graph of image classification for ``darkroom export``: uint8 images to probabilities."""

from collections.abc import Sequence

from torch import Tensor, nn

from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.protocols.export import BATCH, ExportGraph, TensorSpec, image_spec


class _Graph(nn.Module):
    """Uint8 images (B, C, H, W) -> probabilities float32 (B, K)."""

    def __init__(self, model: nn.Module, normalization: tuple[Sequence[float], Sequence[float]]) -> None:
        super().__init__()
        self.normalize, self.model = ImageNormalization(*normalization), model

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.model(self.normalize(image)).float().softmax(1),)


def classification_graph(
    model: nn.Module, num_classes: int, normalization: tuple[Sequence[float], Sequence[float]]
) -> ExportGraph:
    """Return the graph of a classifier.

    Args:
        model: maps normalized images (B, C, H, W) to logits (B, K).
        num_classes: K.
        normalization: of the images.
    """
    output = TensorSpec("probabilities", "float32", (BATCH, num_classes), "of the classes, with sum 1")
    image = image_spec(len(normalization[0]))
    return ExportGraph(_Graph(model, normalization), (image,), (output,), "none: images have the size of the training")
