"""Options that select detections from a detector's candidates."""

from dataclasses import dataclass
from typing import NamedTuple

from darkroom.errors import UsageError
from darkroom.lightning_modules.tiling import Tiling
from darkroom.ranges import ClosedUnitInterval, PositiveInt


class Limits(NamedTuple):
    """Thresholds that select detections from candidates; all values are set."""

    score_threshold: float
    """Candidates must score more."""
    nms_threshold: float
    """Of two boxes of a class with a larger IoU the worse one is dropped."""
    max_detections: int
    """Most detections of an image."""


@dataclass(frozen=True)
class DetectionInference(Tiling):
    """Thresholds that select detections from candidates; None: the method's own. Tiles for test and prediction.

    Args:
        tile: side of the tiles in pixels, for small objects of large images; None: the whole image at once.
        overlap: fraction of a tile that its neighbour covers too, in [0, 1). Objects of that size are whole in some tile;
            the boxes of larger ones are joined. Without overlap, an object across a border is found once on each side.
        tiles_at_once: batch size of tiles.
        score_threshold: candidates must score more, in [0, 1].
        nms_threshold: of two boxes of a class with a larger IoU, in [0, 1], the worse one is dropped.
        max_detections: most detections of an image, and of each tile.

    Raises:
        UsageError: a value is out of its range.
    """

    score_threshold: ClosedUnitInterval | None = None
    nms_threshold: ClosedUnitInterval | None = None
    max_detections: PositiveInt | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("score_threshold", self.score_threshold), ("nms_threshold", self.nms_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"model.inference.{name} must be in [0, 1], got {value}")
        if self.max_detections is not None and self.max_detections < 1:
            raise UsageError(f"model.inference.max_detections must be at least 1, got {self.max_detections}")

    def limits(self, default: Limits) -> Limits:
        """Return these values, with the method's own ones instead of None."""
        return Limits(
            score_threshold=default.score_threshold if self.score_threshold is None else self.score_threshold,
            nms_threshold=default.nms_threshold if self.nms_threshold is None else self.nms_threshold,
            max_detections=default.max_detections if self.max_detections is None else self.max_detections,
        )
