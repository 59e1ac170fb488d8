"""Boxes that a detector predicts relative to: anchors, default boxes, or the cells of a grid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.detection import SSD, YOLO, FasterRCNN, MaskRCNN
from darkroom.lightning_modules.detection.export.select import extents

_MOST = 20_000  # boxes in a page


@dataclass(frozen=True)
class References:
    """Boxes of a method.

    Args:
        name: in the plural.
        boxes: x0, y0, x1, y1 in pixels of the image.
        rule: which ones are matched with true boxes. at_least: those of at least the threshold's IoU, and the best one of
            each true box (Ren et al. 2015, section 3.1.2). above: those of a higher IoU than the threshold, and one for
            each true box, the best pair first (Liu et al. 2016, section 2.2). centre: the one in which the centre of the
            true box lies (Redmon et al. 2016, section 2).
        threshold: IoU.
    """

    name: str
    boxes: list[list[float]]
    rule: Literal["at_least", "above", "centre"]
    threshold: float = 0.0

    def as_data(self) -> Mapping[str, Any]:
        """Return the boxes for the script."""
        return asdict(self)


@torch.no_grad()
def references_of(model: Technique, image: Tensor) -> References | None:
    """Return the boxes of a detector for the size of an image; None: it has none, or too many for a page.

    Args:
        model: in evaluation mode.
        image: float32 (1, C, H, W), normalized.
    """
    size = extents(*image.shape[-2:])
    found = None
    if isinstance(model, SSD):
        boxes = _round(model.network.default_boxes * size / model.image_size)
        found = References("default boxes", boxes, "above", 0.5)
    elif isinstance(model, YOLO):
        rows, columns = torch.meshgrid(
            torch.arange(model.network.grid), torch.arange(model.network.grid), indexing="ij"
        )
        cells = torch.stack([columns, rows, columns + 1, rows + 1], -1).flatten(0, 1) / model.network.grid
        found = References("cells", _round(cells * size), "centre")
    elif isinstance(model, FasterRCNN | MaskRCNN):
        network = model.network
        padded, scaled = network.transform.scale_batch(image)
        sizes = [(int(scaled[0]), int(scaled[1]))]
        anchors = network.rpn.score_anchors(ImageList(padded, sizes), network.backbone(padded)).anchors[0]
        threshold = network.rpn.proposal_matcher.high_threshold
        found = References("anchors", _round(anchors * size / extents(*sizes[0])), "at_least", threshold)
    return None if found is None or len(found.boxes) > _MOST else found


def _round(boxes: Tensor) -> list[list[float]]:
    return [[round(value, 2) for value in box] for box in boxes.tolist()]
