"""Masks of regions: training targets cut from the objects' masks, and pasting of predictions into the image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_exporting
from torchvision.ops import roi_align

# Float values of pasted masks in memory at the same time: 128 MiB.
_PASTED = 2**25


def mask_targets(masks: Tensor, boxes: Tensor, truths: Tensor, cells: int) -> Tensor:
    """Cut the target masks of an image's regions: the fraction of each cell that the object covers.

    torchvision's are half a pixel off, which matters for small objects.

    Args:
        masks: masks of the objects (N, H, W).
        boxes: regions (R, 4).
        truths: index of each region's object, int64 (R,).
        cells: S, cells along a side.

    Returns:
        float (R, S, S) in [0, 1].
    """
    rois = torch.cat([truths[:, None].to(boxes), boxes], 1)
    return roi_align(masks[:, None].float(), rois, cells, aligned=True)[:, 0]


def paste(masks: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Paste masks into their boxes: bilinear between the centres of their cells, then thresholded at one half.

    Args:
        masks: probabilities float (M, S, S), each over its box.
        boxes: (M, 4) xyxy in pixels.
        size: height and width of the image.

    Returns:
        bool (M, height, width).
    """
    rows = _hats(boxes[:, 1], boxes[:, 3], size[0], masks.shape[-2])
    columns = _hats(boxes[:, 0], boxes[:, 2], size[1], masks.shape[-1])
    if is_exporting():  # a graph cannot loop over a number of masks that depends on the image
        return rows @ masks.float() @ columns.mT >= 0.5
    pasted = masks.new_empty(len(masks), *size, dtype=torch.bool)
    step = max(1, _PASTED // (size[0] * size[1]))
    with torch.autocast(masks.device.type, enabled=False):
        for start in range(0, len(masks), step):
            part = slice(start, start + step)
            pasted[part] = rows[part] @ masks[part].float() @ columns[part].mT >= 0.5
    return pasted


def _hats(low: Tensor, high: Tensor, pixels: int, cells: int) -> Tensor:
    """Return hat functions (M, pixels, cells) of cells from low to high (M,): 1 at a cell's centre, 0 at the next's."""
    centres = torch.arange(pixels, device=low.device) + 0.5
    places = (centres - low[:, None]) / (high - low)[:, None] * cells - 0.5
    return (1 - (places[..., None] - torch.arange(cells, device=low.device)).abs()).clamp(min=0)
