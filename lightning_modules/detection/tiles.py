"""Detection in tiles: small objects of large images, found tile by tile and merged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from darkroom.lightning_modules.detection.boxes import clip
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.types import Detection, Detections
from darkroom.lightning_modules.tiling import chunks

# Boxes of two tiles with this IoU, within the area that both tiles cover, show the same object.
AGREEMENT = 0.5


def detect_in_tiles(
    detect: Callable[[dict[str, Any]], Detections],
    batch: Mapping[str, Any],
    options: DetectionInference,
    limits: Limits,
) -> Detection:
    """Detect the objects of one image in tiles, see ``merge_tiles``.

    Args:
        detect: detects the objects of a batch, one dict per image.
        batch: ``image``, a list of one tensor (C, H, W), and where the method needs them ``proposals``.
        options: size and overlap of the tiles.
        limits: thresholds between the tiles, and the largest number of detections of the image.
    """
    height, width = batch["image"][0].shape[-2:]
    starts = [(x, y) for y in options.starts(height) for x in options.starts(width)]
    tiles = [(x, y, x + options.extent(width), y + options.extent(height)) for x, y in starts]
    found: Detections = []
    for some in chunks(tiles, options.tiles_at_once):
        found += detect(_crop(batch, some))
    return merge_tiles(found, torch.tensor(tiles), (height, width), limits)


def _crop(batch: Mapping[str, Any], tiles: Sequence[tuple[int, int, int, int]]) -> dict[str, Any]:
    """Return the batch of the tiles of one image, with the proposals that lie in each."""
    (image,) = batch["image"]
    windows: dict[str, Any] = {"image": [image[:, y0:y1, x0:x1] for x0, y0, x1, y1 in tiles]}
    if "path" in batch:
        windows["path"] = [batch["path"][0]] * len(tiles)
    if "proposals" in batch:
        (proposals,) = batch["proposals"]
        inside = [clip(proposals - proposals.new_tensor([x, y, x, y]), (y1 - y, x1 - x)) for x, y, x1, y1 in tiles]
        windows["proposals"] = [boxes[(boxes[:, 2:] - boxes[:, :2] >= 1).all(1)] for boxes in inside]
    return windows


def merge_tiles(found: Detections, tiles: Tensor, size: tuple[int, int], limits: Limits) -> Detection:
    """Merge the detections of overlapping tiles of one image.

    A box is cut if it ends at a border of its tile inside the image. Boxes of one class show the same object if they agree
    within the area that both tiles cover. A cut box is dropped if another tile has the object uncut, or shows its place
    uncut without an agreeing box. Cut boxes that agree become one box around them all, with their best score.
    Non-maximum suppression within each class follows.

    Args:
        found: detections of each tile, in its pixels.
        tiles: int64 (T, 4), xyxy in pixels of the image.
        size: height and width of the image.
        limits: an ``nms_threshold`` of 1, that of networks with a suppression of their own, counts as 0.5.
    """
    device, counts = found[0]["boxes"].device, torch.tensor([len(one["scores"]) for one in found])
    tiles, owner = tiles.float(), torch.arange(len(tiles)).repeat_interleave(counts)
    boxes = torch.cat([one["boxes"] for one in found]).float().cpu() + tiles[owner][:, [0, 1, 0, 1]]
    scores, labels = (
        torch.cat([one["scores"] for one in found]).cpu(),
        torch.cat([one["labels"] for one in found]).cpu(),
    )
    objects, kept = _group_boxes(boxes, labels, tiles, counts.tolist(), size)

    corners = objects[:, None].expand(-1, 2)
    low = boxes.new_empty(len(kept), 2).scatter_reduce(0, corners, boxes[:, :2], "amin", include_self=False)
    high = boxes.new_empty(len(kept), 2).scatter_reduce(0, corners, boxes[:, 2:], "amax", include_self=False)
    boxes = torch.cat([low, high], 1)[kept]
    scores = scores.new_empty(len(kept)).scatter_reduce(0, objects, scores, "amax", include_self=False)[kept]
    labels = labels.new_empty(len(kept)).scatter(0, objects, labels)[kept]
    threshold = limits.nms_threshold if limits.nms_threshold < 1 else AGREEMENT
    best = batched_nms(boxes, scores, labels, threshold)[: limits.max_detections]

    merged: Detection = {
        "boxes": boxes[best].to(device),
        "scores": scores[best].to(device),
        "labels": labels[best].to(device),
    }
    if "masks" in found[0]:
        rows = torch.full((len(kept),), -1)
        rows[kept.nonzero().flatten()[best]] = torch.arange(len(best))
        masks = [one["masks"] for one in found]
        merged["masks"] = _paste_masks(
            masks, tiles.int().tolist(), rows[objects].split(counts.tolist()), len(best), size
        )
    return merged


def _group_boxes(
    boxes: Tensor, labels: Tensor, tiles: Tensor, counts: list[int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Group the boxes (N, 4) of all tiles by object.

    Returns:
        the number of each box's object, int64 (N,) from 0, and bool (K,), False for objects that are dropped.
    """
    cut = torch.cat([_is_cut(some, tile, size) for some, tile in zip(boxes.split(counts), tiles, strict=True)])
    dropped, pairs = torch.zeros_like(cut), []
    rows = torch.arange(len(boxes)).split(counts)
    for first, second, shared in _overlapping(rows, tiles):
        overlaps = box_iou(_clip(boxes[first], shared), _clip(boxes[second], shared))
        agree = (overlaps >= AGREEMENT) & (labels[first][:, None] == labels[second])
        cut_first, cut_second = cut[first][:, None], cut[second]
        dropped[first] |= (agree & cut_first & ~cut_second).any(1)
        dropped[second] |= (agree & ~cut_first & cut_second).any(0)
        pairs += [(int(first[a]), int(second[b])) for a, b in _pair(agree & cut_first & cut_second)]

    links = torch.tensor(pairs, dtype=torch.long).view(-1, 2).T
    graph = coo_array(([True] * links.shape[1], tuple(links.numpy())), shape=(len(boxes), len(boxes)))
    objects = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    alone = torch.bincount(objects) == 1
    dropped |= alone[objects] & _is_uncut_elsewhere(boxes, cut, tiles, size)
    kept = torch.ones_like(alone)
    kept[objects[dropped]] = False
    return objects, kept


def _is_cut(boxes: Tensor, tile: Tensor, size: tuple[int, int]) -> Tensor:
    """Return True for boxes (N, 4) that end at, or beyond, a border of a tile (4,) inside the image.

    A detector places borders inexactly: within a tenth of the box's side, at least a pixel.
    """
    inner = torch.cat([tile[:2] > 0, tile[2:] < tile.new_tensor(size[::-1])])
    distances = torch.cat([boxes[:, :2] - tile[:2], tile[2:] - boxes[:, 2:]], 1)
    tolerance = ((boxes[:, 2:] - boxes[:, :2]) / 10).clamp(min=1).repeat(1, 2)
    return (inner & (distances < tolerance)).any(1)


def _is_uncut_elsewhere(boxes: Tensor, cut: Tensor, tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """Return True for cut boxes (N, 4) whose place another tile shows without cutting it."""
    rows = cut.nonzero().flatten()
    uncut, some = torch.zeros_like(cut), boxes[rows]
    for tile in tiles:
        uncut[rows] |= ~_is_cut(some, tile, size)
    return uncut


def _overlapping(rows: Sequence[Tensor], tiles: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the boxes of each pair of overlapping tiles, as indices, and the area (4,) that both tiles cover."""
    used = [index for index, some in enumerate(rows) if len(some)]
    for place, first in enumerate(used):
        others = torch.tensor(used[place + 1 :], dtype=torch.long)
        low = torch.maximum(tiles[first, :2], tiles[others, :2])
        high = torch.minimum(tiles[first, 2:], tiles[others, 2:])
        shared = torch.cat([low, high], 1)
        for index in (high > low).all(1).nonzero().flatten().tolist():
            yield rows[first], rows[used[place + 1 + index]], shared[index]


def _clip(boxes: Tensor, area: Tensor) -> Tensor:
    """Clip boxes (N, 4) to an area (4,); those outside have no extent."""
    return torch.cat([boxes[:, :2].clamp(area[:2], area[2:]), boxes[:, 2:].clamp(area[:2], area[2:])], 1)


def _pair(possible: Tensor) -> Iterator[tuple[int, int]]:
    """Yield pairs of a row and a column of bool (N, M), each at most once; first ones, of higher scores, first."""
    taken: set[int] = set()
    for row in possible.any(1).nonzero().flatten().tolist():
        column = next((one for one in possible[row].nonzero().flatten().tolist() if one not in taken), None)
        if column is not None:
            taken.add(column)
            yield row, column


def _paste_masks(
    masks: Sequence[Tensor], tiles: Sequence[Sequence[int]], rows: Sequence[Tensor], count: int, size: tuple[int, int]
) -> Tensor:
    """Paste the masks of tiles into masks of the image: bool (count, H, W).

    Args:
        masks: of each tile, bool (M, h, w).
        tiles: xyxy in pixels of the image.
        rows: of each tile, the index int64 (M,) of the mask of the image that a mask belongs to; -1: none.
        count: number of masks of the image.
        size: height and width of the image.
    """
    pasted = masks[0].new_zeros(count, *size, dtype=torch.bool)
    for some, (x0, y0, x1, y1), targets in zip(masks, tiles, rows, strict=True):
        for mask, target in zip(some, targets.tolist(), strict=True):
            if target >= 0:
                pasted[target, y0:y1, x0:x1] |= mask
    return pasted
