"""Region proposals: boxes that may hold an object, by Selective Search or on a grid."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from types import ModuleType
from typing import ClassVar, Literal

import numpy as np
import torch
from torchvision.ops import nms

from darkroom.errors import UsageError
from darkroom.paths import install_command

_REPEATS = 0.7  # IoU above which a box adds little to an earlier one
_ORDER = 1  # version of the order below, part of every key; increase it when the order changes


def order_boxes(boxes: np.ndarray) -> np.ndarray:
    """Return the distinct boxes, float32 (P, 4), in an order that depends on them alone and can be truncated anywhere.

    They are ordered by a hash of their coordinates; boxes that overlap an earlier one by an IoU above .7 come last.
    (OpenCV's order, the depth in the hierarchy times a random number, differs in every call.)
    """
    # Recall at IoU .5 of the first 100 and 300 boxes by Selective Search, on 40 images of blood cells and 27 of
    # COCO, was .39 .66 and .44 .61; by the hash alone .37 .60 and .42 .56; in OpenCV's order .31 .57 and .40 .54; with the
    # large boxes first .05 .60 and .18 .39, with the small ones first .02 .05 and .11 .27.
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4) + np.float32(0)  # + 0, because -0 has another hash
    boxes = np.unique(boxes, axis=0)
    boxes = boxes[sorted(range(len(boxes)), key=lambda row: blake2b(boxes[row].tobytes(), digest_size=8).digest())]
    first = nms(torch.from_numpy(boxes), -torch.arange(len(boxes), dtype=torch.float32), _REPEATS).numpy()
    return np.concatenate([boxes[first], np.delete(boxes, first, axis=0)])


class Proposals:
    """Base of the methods that propose regions of an image that may hold an object. Subclasses define ``candidates``.

    All parameters must be attributes; they become part of ``key``.

    Args:
        min_side: boxes with a shorter side, in pixels, are dropped.
        limit: maximum number of boxes of an image; None: all.
    """

    by_shape: ClassVar[bool] = False  # all images of a shape have the same boxes

    def __init__(self, min_side: float, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"data.proposals.limit must be at least 1, or null for all boxes, got {limit}")
        if min_side < 0:
            raise UsageError(f"data.proposals.min_side must be at least 0 pixels, got {min_side}")
        self.min_side, self.limit = float(min_side), limit

    def candidates(self, image: np.ndarray) -> np.ndarray:
        """Return boxes (P, 4), xyxy in pixels, for an image uint8 (H, W, 3), RGB; ``propose`` cleans them."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """Everything that ``propose`` depends on besides the image, without ``limit``, which is applied later."""
        parameters = {name: value for name, value in sorted(vars(self).items()) if name != "limit"}
        kind = type(self)
        name = kind.__name__ if kind.__module__ == __name__ else f"{kind.__module__}.{kind.__qualname__}"
        return f"{name} {parameters} order {_ORDER}"

    def propose(self, image: np.ndarray) -> np.ndarray:
        """Propose all boxes for an image uint8 (H, W, 3), RGB: float32 (P, 4) xyxy in pixels, see ``order_boxes``.

        They are distinct and inside the image. P is at least 1: without a box of ``min_side``, the whole image is proposed.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UsageError(
                f"images for proposals must be uint8 (H, W, 3), in colour, got {image.dtype} {image.shape}"
            )
        height, width = image.shape[:2]
        whole = np.array([[0, 0, width, height]], np.float32)
        boxes = np.clip(np.asarray(self.candidates(image), np.float32).reshape(-1, 4), 0, whole[:, [2, 3, 2, 3]])
        sides = (boxes[:, 2:] - boxes[:, :2]).min(1)
        boxes = boxes[(sides >= self.min_side) & (sides > 0)]
        return order_boxes(boxes) if len(boxes) else whole

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the first ``limit`` boxes of ``propose``."""
        return self.propose(image)[: self.limit]


def _opencv() -> ModuleType:
    """Import OpenCV with the modules that Selective Search needs."""
    try:
        import cv2

        cv2.ximgproc.segmentation.createSelectiveSearchSegmentation  # noqa: B018 (raises where it is missing)
    except (ImportError, AttributeError):
        command = install_command("proposals")
        raise UsageError(f"SelectiveSearch needs OpenCV's contrib modules: {command}") from None
    return cv2


@contextmanager
def _one_thread(cv2: ModuleType) -> Iterator[None]:
    """Keep OpenCV from starting threads: they save no time here, and every worker process would start its own.

    0 means no threads. 1 would first end the pool, and block forever on threads that a fork did not copy.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        if before > 1:
            cv2.setNumThreads(before)


class SelectiveSearch(Proposals):
    """Selective Search (Uijlings et al. 2013): groups pixels into regions, and these into larger and larger ones.

    OpenCV computes it (the extra ``proposals``): .3 s for 256 x 256 pixels and 2 s for 640 x 480. "quality"
    takes three to four times as long for two to four times as many boxes.

    Args:
        mode: "fast", 12 hierarchies (2 colour spaces, 3 initial segmentations, 2 similarities), or "quality", 100 of them
            (5 x 5 x 4).
        min_side: boxes with a shorter side, in pixels of the image, are dropped; R-CNN's 20 is meant for photos.
        limit: maximum number of boxes of an image; None: all.
        scale: factor that enlarges the image first, for images of 100 pixels or less, which have too few regions.
        max_side: largest longer side in pixels; larger images are scaled down first; R-CNN used 500. None: no limit.
        base_k: scale of the regions of the first initial segmentation (k in Felzenszwalb and Huttenlocher 2004).
        increment_k: growth of k from one initial segmentation to the next.
        sigma: standard deviation of the Gaussian that smooths the image first, in pixels.
    """

    def __init__(
        self,
        mode: Literal["fast", "quality"] = "fast",
        min_side: float = 20,
        limit: int | None = 2000,
        scale: float = 1.0,
        max_side: int | None = None,
        base_k: int = 150,
        increment_k: int = 150,
        sigma: float = 0.8,
    ) -> None:
        super().__init__(min_side=min_side, limit=limit)
        numbers = {"scale": scale, "max_side": max_side, "base_k": base_k, "increment_k": increment_k, "sigma": sigma}
        for name, value in numbers.items():
            if value is not None and value <= 0:
                raise UsageError(f"data.proposals.{name} must be above 0, got {value}")
        self.mode, self.scale, self.max_side = mode, float(scale), max_side
        self.base_k, self.increment_k, self.sigma = base_k, increment_k, float(sigma)

    @property
    def key(self) -> str:
        """Parameters and version of OpenCV, on which the boxes depend."""
        return f"{super().key} OpenCV {_opencv().__version__}"

    def _resize(self, image: np.ndarray, cv2: ModuleType) -> np.ndarray:
        longer = max(image.shape[:2]) * self.scale
        scale = self.scale * min(1.0, (self.max_side or longer) / longer)
        if scale == 1:
            return image
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR_EXACT if scale > 1 else cv2.INTER_AREA)

    def candidates(self, image: np.ndarray) -> np.ndarray:
        """Return OpenCV's boxes (P, 4), xyxy in pixels of the image, for an image uint8 (H, W, 3), RGB."""
        cv2 = _opencv()
        with _one_thread(cv2):
            scaled = self._resize(image, cv2)
            search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
            search.setBaseImage(np.ascontiguousarray(scaled[..., ::-1]))  # OpenCV's channels are blue, green, red
            switch = {"fast": search.switchToSelectiveSearchFast, "quality": search.switchToSelectiveSearchQuality}
            switch[self.mode](self.base_k, self.increment_k, self.sigma)
            x, y, width, height = search.process().astype(np.float64).T
        back = np.divide(image.shape[1::-1], scaled.shape[1::-1])
        return np.stack([x, y, x + width, y + height], 1) * np.tile(back, 2)


class GridProposals(Proposals):
    """Boxes of a few sizes and shapes, evenly over the image: the same for all images of a size, without OpenCV.

    Args:
        sides: square roots of the boxes' areas, as fractions of the image's shorter side.
        aspect_ratios: width over height.
        stride: largest distance between neighbours, as a fraction of the box's width or height.
        limit: maximum number of boxes of an image, even over sizes, shapes and places; None: all.
    """

    by_shape = True

    def __init__(
        self,
        sides: Sequence[float] = (0.15, 0.22, 0.33, 0.5, 0.75),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        stride: float = 0.25,
        limit: int | None = 2000,
    ) -> None:
        super().__init__(min_side=1, limit=limit)
        for name, values in {"sides": sides, "aspect_ratios": aspect_ratios, "stride": [stride]}.items():
            if not values or min(values) <= 0:
                raise UsageError(f"data.proposals.{name} must be numbers above 0, got {values}")
        self.sides, self.aspect_ratios, self.stride = tuple(sides), tuple(aspect_ratios), float(stride)

    def _starts(self, length: int, side: float) -> np.ndarray:
        """Return the starts of boxes of this side along an axis: the first is 0, the last box ends at ``length``."""
        room = max(0.0, length - side)
        return np.linspace(0, room, int(np.ceil(room / (self.stride * side))) + 1)

    def candidates(self, image: np.ndarray) -> np.ndarray:
        """Return the boxes of all sizes and shapes, (P, 4) xyxy in pixels, for an image uint8 (H, W, 3)."""
        height, width = image.shape[:2]
        boxes = []
        for side in self.sides:
            for ratio in self.aspect_ratios:
                w, h = (side * min(height, width) * ratio**power for power in (0.5, -0.5))
                x, y = (axis.ravel() for axis in np.meshgrid(self._starts(width, w), self._starts(height, h)))
                boxes.append(np.stack([x, y, x + w, y + h], 1))
        return np.concatenate(boxes)
