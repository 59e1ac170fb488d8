"""Ways that annotation files write a box: messages about a box use the words and values of its file."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_Size = tuple[int, int]


@dataclass(frozen=True)
class BoxFormat:
    """Way that a file writes a box.

    Args:
        place: pattern of an object's place in the file, with its number.
        fields: the values, in their order.
        confused: the values of the format that it is often confused with.
        values: returns the values in the file of a box, float (4,) xyxy in pixels, in an image of a height and width.
        misread: returns the box, xyxy in pixels, that these values would be in the other format.
        negative: predicate of a box with negative sides.
        first_label: number of the first class in the file.
    """

    place: str
    fields: str
    confused: str
    values: Callable[[np.ndarray, _Size], np.ndarray]
    misread: Callable[[np.ndarray, _Size], np.ndarray]
    negative: str = "has a negative width or height"
    first_label: int = 1

    def explain(self, box: np.ndarray, size: _Size) -> str:
        """Return the values of a box, float (4,) xyxy, as the file has them."""
        return f"{self.fields} = {', '.join(f'{value:.6g}' for value in self.values(box.astype(np.float64), size))}"

    def hint(self, box: np.ndarray, size: _Size) -> str:
        """Return a remark if the values of a box would be valid in the format that this one is confused with, or ""."""
        x0, y0, x1, y1 = self.misread(self.values(box.astype(np.float64), size), size)
        fits = 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
        return f"; it looks like {self.confused}, but must be {self.fields}" if fits else ""


def _same(box: np.ndarray, size: _Size) -> np.ndarray:
    return box


def _to_sides(box: np.ndarray, size: _Size) -> np.ndarray:
    return np.concatenate([box[:2], box[2:] - box[:2]])


def _from_sides(values: np.ndarray, size: _Size) -> np.ndarray:
    return np.concatenate([values[:2], values[:2] + values[2:]])


def _to_fractions(box: np.ndarray, size: _Size) -> np.ndarray:
    return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]]) / _sides(size)


def _from_fractions(values: np.ndarray, size: _Size) -> np.ndarray:
    return values * _sides(size)


def _sides(size: _Size) -> np.ndarray:
    return np.array([size[1], size[0]] * 2)


_SIDES, _CORNERS = "x, y, width, height", "x0, y0, x1, y1"
CORNERS = BoxFormat("box {}", _CORNERS, _SIDES, _same, _from_sides, negative="ends before it begins")
VOC = BoxFormat("object {}", _CORNERS, _SIDES, _same, _from_sides, negative="ends before it begins")
COCO = BoxFormat("annotations[{}]", _SIDES, _CORNERS, _to_sides, _same)
YOLO = BoxFormat("line {}", "cx, cy, w, h", "fractions x0, y0, x1, y1", _to_fractions, _from_fractions, first_label=0)
