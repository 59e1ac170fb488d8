"""Annotations: the objects of an image, and what is wrong with their masks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from darkroom.datamodules.detection.formats.boxes import CORNERS, BoxFormat


@dataclass(frozen=True)
class MaskFault:
    """Fault of the mask of one object.

    Args:
        kind: the fault as a predicate of the object, the same for all objects that have it.
        detail: what is special about this object.
        repaired: True if the mask is valid without the invalid part; False if the object has no mask.
    """

    kind: str
    detail: str = ""
    repaired: bool = False


@dataclass(frozen=True)
class Annotation:
    """Objects of one image.

    Args:
        path: file of the image.
        size: height and width of the image.
        boxes: float32 (N, 4), xyxy in pixels, pixel k reaching from k to k + 1.
        labels: int64 (N,), from 1.
        image_id: unique id of the image, as the file of the annotation writes it.
        source: file of the annotation, for messages.
        difficult, iscrowd: bool (N,), all False if None.
        area: float32 (N,), in pixels, which the size of an object is judged by; None: that of its mask or box.
        masks: function that reads the masks, uint8 (N, H, W) of 0 and 1; worker processes must be able to import it.
        rows: int64 (N,), numbers of the objects in the file, for messages; None: from 0.
        box_format: the way that the file writes boxes, for messages.
        mask_faults: faults of masks by the index of their object, while masks are loaded.
    """

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    image_id: int | str
    source: Path
    difficult: np.ndarray | None = None
    iscrowd: np.ndarray | None = None
    area: np.ndarray | None = None
    masks: Callable[[], np.ndarray] | None = None
    rows: np.ndarray | None = None
    box_format: BoxFormat = CORNERS
    mask_faults: Mapping[int, MaskFault] = field(default_factory=dict)

    def select(self, keep: np.ndarray) -> "Annotation":
        """Return the annotation with the objects where ``keep``, bool (N,), is True."""
        if keep.all():
            return self
        values = {one.name: vars(self)[one.name] for one in fields(self)}
        kept = {name: value[keep] for name, value in values.items() if isinstance(value, np.ndarray)}
        numbers = {int(old): new for new, old in enumerate(np.flatnonzero(keep))}
        faults = {numbers[old]: fault for old, fault in self.mask_faults.items() if old in numbers}
        masks = None if self.masks is None else _SelectedMasks(self.masks, keep)
        return replace(self, masks=masks, mask_faults=faults, **kept)


@dataclass(frozen=True)
class _SelectedMasks:
    """Reader of the masks of some of the objects."""

    read: Callable[[], np.ndarray]
    keep: np.ndarray

    def __call__(self) -> np.ndarray:
        return self.read()[self.keep]
