"""Segmentations of COCO's format: polygons and run lengths."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from darkroom.datamodules.detection.annotations import MaskFault

EMPTY = MaskFault("has an empty segmentation")
_EMPTY: tuple[Any, ...] = (None, [], [[]], "")  # segmentations without any pixel


def run_lengths(segmentation: Any, size: tuple[int, int]) -> bytes:
    """Return COCO's compressed run lengths of an object.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, or run lengths {"size": [H, W], "counts": ...},
            compressed (str) or not (a list).
        size: height and width of the image.

    Raises:
        ValueError: the segmentation has another format or size.
    """
    from faster_coco_eval.core import mask as coco_mask  # imports OpenCV where that is installed: 0.1 s of every start

    try:
        if isinstance(segmentation, dict):
            if tuple(segmentation["size"]) != size:
                raise ValueError(f"its size {segmentation['size']} differs from that of the image, {list(size)}")
        elif not segmentation or any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
            raise ValueError("a polygon must have x and y of three points or more")
        elif far := [v for polygon in segmentation for v in polygon if not abs(v) <= 2 * max(size)]:
            # the library follows every edge, pixel by pixel
            raise ValueError(f"a polygon's {far[0]} is far outside of an image of {size[1]} x {size[0]}")
        runs = coco_mask.segmToRle(segmentation, size[1], size[0])
        if isinstance(segmentation, dict):
            coco_mask.decode([runs])  # checks the number of pixels
    except Exception as error:  # the library raises many types
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error
    return runs["counts"]


def _without_thin_parts(segmentation: Any) -> Any:
    """Return polygons without those of less than three points, which tools write for a click or a line."""
    if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
        return segmentation
    return [part for part in segmentation if len(part) >= 6 or len(part) % 2]


def read_segmentation(segmentation: Any, size: tuple[int, int]) -> tuple[bytes, MaskFault | None]:
    """Return the run lengths of an object and what is wrong with its segmentation; an invalid one has no pixel.

    Args:
        segmentation: see ``run_lengths``; None, empty lists and empty text are empty.
        size: height and width of the image.
    """
    no_pixel = {"size": list(size), "counts": [size[0] * size[1]]}
    if segmentation in _EMPTY:
        return run_lengths(no_pixel, size), EMPTY
    usable = _without_thin_parts(segmentation)
    if not usable:
        return run_lengths(no_pixel, size), MaskFault("has a segmentation of less than three points")
    try:
        runs = run_lengths(usable, size)
    except ValueError as error:
        return run_lengths(no_pixel, size), MaskFault("has an unreadable segmentation", str(error))
    if len(usable) < len(segmentation):
        return runs, MaskFault("has a part of less than three points in its segmentation", repaired=True)
    return runs, None


@dataclass(frozen=True)
class RunLengthMasks:
    """Reader of the masks of one image, uint8 (N, H, W), from run lengths."""

    size: tuple[int, int]
    runs: tuple[bytes, ...]

    def __call__(self) -> np.ndarray:
        from faster_coco_eval.core import mask as coco_mask

        if not self.runs:
            return np.zeros((0, *self.size), np.uint8)
        masks = coco_mask.decode([{"size": list(self.size), "counts": counts} for counts in self.runs])
        return np.ascontiguousarray(masks.transpose(2, 0, 1))


def read_masks(
    segmentations: Iterable[Any], size: tuple[int, int]
) -> tuple[Callable[[], np.ndarray], dict[int, MaskFault]]:
    """Return the reader of the masks of an image, and the faults of its segmentations by their index."""
    found: Sequence[tuple[bytes, MaskFault | None]] = [read_segmentation(one, size) for one in segmentations]
    faults = {index: fault for index, (_, fault) in enumerate(found) if fault is not None}
    return RunLengthMasks(size, tuple(runs for runs, _ in found)), faults
