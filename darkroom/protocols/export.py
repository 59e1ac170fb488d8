"""Interface of methods for ``darkroom export``: a graph from raw inputs to final outputs, and its description."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

BATCH, HEIGHT, WIDTH = "batch", "height", "width"

DType = Literal["uint8", "int64", "float32", "bool"]


@dataclass(frozen=True)
class TensorSpec:
    """Input or output of an exported graph.

    Args:
        name: unique among inputs, or among outputs.
        dtype: type of the values.
        shape: extent of each axis; a name for an axis of any extent. Axes with the same name have the same extent.
        meaning: one sentence with unit, value range and format.
    """

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class TileRule:
    """Division of an image into tiles, which the caller of a graph does; the graph computes the logits of one window.

    Args:
        tile: side of the tiles in pixels. Images whose sides are at most this are one tile.
        overlap: fraction of a tile that its neighbour covers too. Probabilities of several tiles are averaged, weighted by
            the distance to the border of each tile, 1 at the border.
        margin: pixels around a tile that its window has too; beyond the image they are mirrored.
        window: side of all windows, margins included; None: the window has the size of its tile.
        abut: tiles do not overlap; the last ones extend beyond the image, which is mirrored there.
        flip: average with the image flipped left-right.
    """

    tile: int
    overlap: float
    margin: int = 0
    window: int | None = None
    abut: bool = False
    flip: bool = False


@dataclass(frozen=True)
class ExportGraph:
    """Graph of a method for export.

    Args:
        module: maps the inputs, by position, to a tuple of the outputs. The first input of a graph of ``predict_step`` is
            the image, uint8 (B, C, H, W).
        inputs, outputs: in the order of the arguments and of the tuple.
        resizing: what the graph does to the size of images, as a sentence.
        options: thresholds and other constants of the graph, by the names of their options.
        tiles: division of large images, which is not part of the graph; None: the graph takes whole images.
        examples: functions that return valid values of an input, by its name, given the extents of the named axes; for
            inputs for which random numbers are invalid.
        reference: the method's own computation of the outputs, which the exported graph is compared with; None:
            ``predict_step``.
        continuous: the outputs change little if numbers inside the graph are rounded otherwise. False: only the decisions
            must agree with ``predict``, as with unpooling to the positions of maxima, of which some are nearly equal.
        notes: sentences on what the file lacks, which the command prints.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    resizing: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tiles: TileRule | None = None
    examples: Mapping[str, Callable[[Mapping[str, int]], Tensor]] = field(default_factory=dict)
    reference: Callable[..., tuple[Tensor, ...]] | None = None
    continuous: bool = True
    notes: tuple[str, ...] = ()


@runtime_checkable
class ExportableModel(Protocol):
    """Trained method that can be exported."""

    task: ClassVar[str]
    """Task of the method, which determines the names of its outputs."""

    def export_graph(self, normalization: tuple[Sequence[float], Sequence[float]], /) -> ExportGraph:
        """Return the graph of ``predict_step``.

        Args:
            normalization: mean and standard deviation of the training data, per channel of images in [0, 1].

        Raises:
            UsageError: options of the method cannot be exported; names them.
        """
        ...


@runtime_checkable
class ExportableParts(Protocol):
    """Trained method that is exported as several graphs, such as encoder and decoder."""

    def export_graphs(self, normalization: tuple[Sequence[float], Sequence[float]], /) -> Mapping[str, ExportGraph]:
        """Return the graphs by name, each with its reference.

        Args:
            normalization: mean and standard deviation of the training data, per channel of images in [0, 1].

        Raises:
            UsageError: options of the method cannot be exported; names them.
        """
        ...


def image_spec(channels: int, height: int | str = HEIGHT, width: int | str = WIDTH) -> TensorSpec:
    """Return the input of images.

    Args:
        channels: 3 for RGB, 1 for grey images.
        height, width: in pixels; names for images of any size.
    """
    kind = {1: "grey images", 3: "RGB images"}.get(channels, f"images with {channels} channels")
    return TensorSpec("image", "uint8", (BATCH, channels, height, width), f"{kind}, 0 to 255")
