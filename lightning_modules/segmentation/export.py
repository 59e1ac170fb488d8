"""Graphs of segmentation for ``darkroom export``: uint8 images to class ids and logits."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.lightning_modules.segmentation.geometry import margin_of
from darkroom.lightning_modules.segmentation.inference import Inference
from darkroom.protocols import SeamlessNetwork, UnpaddedNetwork, Unpools
from darkroom.protocols.export import BATCH, HEIGHT, WIDTH, ExportGraph, TensorSpec, TileRule, image_spec


class InferringModel(Protocol):
    """Segmentation model with options of inference."""

    num_classes: int
    inference: Inference

    @property
    def network(self) -> nn.Module:
        """Network from images to logits."""
        ...

    def infer(self, batch: dict[str, Any], /) -> Tensor:
        """Compute logits (B, K, H, W) of a batch, as in prediction."""
        ...

    def logits_within(self, image: Tensor, size: tuple[int, int], /) -> Tensor:
        """Compute logits (B, K, *size) of the area within the network's margin."""
        ...

    def __call__(self, image: Tensor, /) -> Tensor:
        """Map normalized images (B, C, H, W) to logits (B, K, H, W)."""
        ...


class _Graph(nn.Module):
    """Uint8 images (B, C, H, W) -> class ids int64 (B, H, W), and the logits float32 (B, K, H, W) they are taken from."""

    def __init__(self, model: InferringModel, normalization: tuple[Sequence[float], Sequence[float]]) -> None:
        super().__init__()
        self.normalize, self.model = ImageNormalization(*normalization), model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(self.normalize(image)).float()
        return logits.max(1).indices, logits

    def logits(self, image: Tensor) -> Tensor:
        """Compute the logits of normalized images."""
        return self.model.infer({"image": image})


class _WindowGraph(_Graph):
    """The same of windows of large images.

    Args:
        model: to be exported.
        normalization: of the images.
        tile: side of the tiles within the margins; None: the network has no margin.
    """

    def __init__(
        self, model: InferringModel, normalization: tuple[Sequence[float], Sequence[float]], tile: int | None
    ) -> None:
        super().__init__(model, normalization)
        self.tile = tile

    def logits(self, image: Tensor) -> Tensor:
        return self.model(image) if self.tile is None else self.model.logits_within(image, (self.tile, self.tile))


def segmentation_graph(model: InferringModel, normalization: tuple[Sequence[float], Sequence[float]]) -> ExportGraph:
    """Return the graph of a segmentation model: of whole images or, with ``inference.tile``, of one window.

    Raises:
        UsageError: ``inference`` has both tiles and scales, whose resized images cannot be uint8.
    """
    inference, channels, rule = model.inference, len(normalization[0]), None
    height: int | str = HEIGHT
    width: int | str = WIDTH
    graph, image = _Graph(model, normalization), image_spec(channels)
    if inference.tile is not None:
        rule = _tile_rule(inference, model.network)
        graph = _WindowGraph(model, normalization, rule.tile if rule.window else None)
        if rule.window:
            height = width = rule.tile
            image = image_spec(channels, rule.window, rule.window)
    outputs = (
        TensorSpec("mask", "int64", (BATCH, height, width), "class ids: the first of the largest logits of a pixel"),
        TensorSpec("logits", "float32", (BATCH, model.num_classes, height, width), "logits of the classes"),
    )
    options = {"flip": inference.flip, "scales": list(inference.scales)} if rule is None else {}
    return ExportGraph(
        graph,
        (image,),
        outputs,
        "none: outputs have the size of the image",
        options,
        rule,
        continuous=not any(isinstance(module, Unpools) and module.unpools for module in model.network.modules()),
    )


def _tile_rule(inference: Inference, network: nn.Module) -> TileRule:
    assert inference.tile is not None
    if inference.scales != (1.0,):
        raise UsageError(
            "model.inference.scales must be [1.0] with model.inference.tile for export, whose graph takes uint8 tiles, got "
            f"{list(inference.scales)}; leave one of them out"
        )
    margin = margin_of(network)
    return TileRule(
        tile=inference.tile,
        overlap=inference.overlap,
        margin=margin,
        window=network.input_size(inference.tile) if margin and isinstance(network, UnpaddedNetwork) else None,
        abut=isinstance(network, SeamlessNetwork) and network.seamless,
        flip=inference.flip,
    )
