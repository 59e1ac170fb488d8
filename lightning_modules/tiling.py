"""Tiling: options and geometry of tiles, for images larger than a network or memory takes at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from darkroom.errors import UsageError
from darkroom.ranges import ClosedUnitInterval, PositiveInt

Item = TypeVar("Item")


@dataclass(frozen=True)
class Tiling:
    """Options of tiles.

    Args:
        tile: side of the tiles in pixels; None: the whole image at once.
        overlap: fraction of a tile that its neighbour covers too, in [0, 1).
        tiles_at_once: batch size of tiles.

    Raises:
        UsageError: a value is out of its range.
    """

    tile: PositiveInt | None = None
    overlap: ClosedUnitInterval = 0.25
    tiles_at_once: PositiveInt = 4

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise UsageError(
                f"model.inference.tile must be a side in pixels, or null for the whole image, got {self.tile}"
            )
        if not 0 <= self.overlap < 1:
            raise UsageError(f"model.inference.overlap must be a fraction in [0, 1), got {self.overlap}")
        if self.tiles_at_once < 1:
            raise UsageError(f"model.inference.tiles_at_once must be at least 1, got {self.tiles_at_once}")

    def fits(self, size: Sequence[int]) -> bool:
        """Return True if an image of ``size`` (height, width) needs no tiles."""
        return self.tile is None or max(size) <= self.tile

    def extent(self, side: int) -> int:
        """Return the extent of the tiles along a side of an image, in pixels."""
        return side if self.tile is None else min(self.tile, side)

    def starts(self, side: int) -> list[int]:
        """Return the first pixels of the tiles along a side, evenly spread, overlapping by at least ``overlap``."""
        extent = self.extent(side)
        step = max(1, int(extent * (1 - self.overlap)))
        count = -(-(side - extent) // step) + 1
        return [round(index * (side - extent) / max(1, count - 1)) for index in range(count)]


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items in sequence, at most ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
