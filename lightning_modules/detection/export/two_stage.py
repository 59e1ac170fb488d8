"""Graph of Faster and Mask R-CNN: both stages for a whole batch at once, without torchvision's loops over images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn, sym_min
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, roi_align

from darkroom.lightning_modules.detection.export.select import (
    Selected,
    best_of_images,
    extents,
    select_candidates,
    suppress,
)
from darkroom.lightning_modules.detection.inference import Limits
from darkroom.lightning_modules.detection.torchvision.masks import paste
from darkroom.lightning_modules.detection.torchvision.rcnn import TwoStageNetwork
from darkroom.lightning_modules.layers.image_normalization import ImageNormalization

Maps = Mapping[str, Tensor]
Size = Sequence[int]


class TwoStageGraph(nn.Module):
    """Uint8 images (B, 3, H, W) -> ``Selected``, and masks bool (N, H, W) if the network has a branch for them.

    Args:
        network: trained.
        normalization: of the data, before the network's own.
        limits: of the detections.
    """

    def __init__(
        self, network: TwoStageNetwork, normalization: tuple[Sequence[float], Sequence[float]], limits: Limits
    ) -> None:
        super().__init__()
        self.normalize, self.network, self.limits = ImageNormalization(*normalization), network, limits
        for index, anchors in enumerate(network.rpn.anchor_generator.cell_anchors):
            self.register_buffer(f"anchors{index}", anchors.float(), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        size = image.shape[-2:]
        padded, scaled = self.network.transform.scale_batch(self.normalize(image))
        maps = self.network.backbone(padded)
        boxes, of_image = self._propose(maps, padded.shape[-2:], scaled)
        found = self._classify(maps, boxes, of_image, image.shape[0], scaled)
        factor = extents(*size) / extents(*scaled)
        placed = found._replace(boxes=clip_boxes_to_image(found.boxes * factor, (size[0], size[1])))
        if not self.network.roi_heads.has_mask():
            return tuple(placed)
        return (*placed, paste(self._masks(maps, found), placed.boxes, size))

    def _propose(self, maps: Maps, padded: Size, scaled: Size) -> tuple[Tensor, Tensor]:
        """Select regions (R, 4) of all images, and the index of the image of each, int64 (R,)."""
        rpn, levels = self.network.rpn, list(maps.values())
        logits, offsets = rpn.head(levels)
        chosen = [
            self._best_of_level(index, *values, padded)
            for index, values in enumerate(zip(logits, offsets, strict=True))
        ]
        scores, boxes = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
        counts = [part[0].shape[1] for part in chosen]
        level = torch.cat([torch.full((count,), index) for index, count in enumerate(counts)])
        images = scores.shape[0]
        of_image = torch.arange(images)[:, None].expand_as(scores).flatten()
        groups = of_image * len(counts) + level.expand_as(scores).flatten()
        boxes, scores = clip_boxes_to_image(boxes, (scaled[0], scaled[1])).flatten(0, 1), scores.flatten().sigmoid()
        wide = ((boxes[:, 2:] - boxes[:, :2]) >= rpn.min_size).all(1) & (scores >= rpn.score_thresh)
        boxes, scores, groups, of_image = boxes[wide], scores[wide], groups[wide], of_image[wide]
        kept = suppress(boxes, scores, groups, rpn.nms_thresh)
        boxes, of_image = boxes[kept], of_image[kept]
        best = best_of_images(of_image, images, rpn.post_nms_top_n())
        return boxes[best], of_image[best]

    def _best_of_level(self, index: int, logits: Tensor, offsets: Tensor, padded: Size) -> tuple[Tensor, Tensor]:
        """Return logits (B, P) and decoded boxes (B, P, 4) of the best anchors of a map."""
        rpn, count = self.network.rpn, logits.shape[1]
        scores = logits.permute(0, 2, 3, 1).flatten(1)
        values = offsets.unflatten(1, (count, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        anchors = self._anchors(index, logits.shape[-2:], padded)
        scores, best = scores.topk(sym_min(rpn.pre_nms_top_n(), scores.shape[1]), 1)
        values = values.gather(1, best[..., None].expand(-1, -1, 4)).flatten(0, 1)
        boxes = rpn.box_coder.decode_single(values, anchors[best.flatten()])
        return scores, boxes.unflatten(0, scores.shape)

    def _anchors(self, index: int, grid: Size, padded: Size) -> Tensor:
        """Return the anchors (cells A, 4) of a map; its stride is that of the padded image, rounded down."""
        rows, columns = (
            torch.arange(count) * (torch.full((), side) // torch.full((), count))
            for count, side in zip(grid, padded, strict=True)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        shifts = torch.stack([x, y, x, y], -1).flatten(0, 1)
        return (shifts[:, None] + self.get_buffer(f"anchors{index}")).flatten(0, 1)

    def _classify(self, maps: Maps, boxes: Tensor, of_image: Tensor, images: int, scaled: Size) -> Selected:
        """Detect objects in regions; boxes are in pixels of the scaled images."""
        heads = self.network.roi_heads
        pooled = pool_regions(heads.box_roi_pool, maps, boxes, of_image)
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        scores = logits.softmax(-1)[:, 1:]
        classes = scores.shape[1]
        decoded = heads.box_coder.decode_single(offsets, boxes).unflatten(1, (classes + 1, 4))[:, 1:]
        region, label = (scores > heads.score_thresh).nonzero(as_tuple=True)
        found = Selected(decoded[region, label], scores[region, label], label + 1, of_image[region])
        return select_candidates(found, images, classes, scaled, self.limits)

    def _masks(self, maps: Maps, found: Selected) -> Tensor:
        """Compute the masks (N, S, S) of the detections' own classes, as probabilities."""
        heads = self.network.roi_heads
        pooled = pool_regions(heads.mask_roi_pool, maps, found.boxes, found.image)
        masks = heads.mask_predictor(heads.mask_head(pooled))
        of_class = found.labels[:, None, None, None].expand(-1, 1, *masks.shape[-2:])
        return masks.gather(1, of_class)[:, 0].sigmoid()


def pool_regions(pool: MultiScaleRoIAlign, maps: Maps, boxes: Tensor, of_image: Tensor) -> Tensor:
    """Pool regions by RoIAlign, each from the map of its level, as ``MultiScaleRoIAlign`` does.

    Args:
        pool: with scales and levels.
        maps: by name.
        boxes: (R, 4).
        of_image: index of the image of each, int64 (R,).
    """
    rois = torch.cat([of_image[:, None].to(boxes), boxes], 1)
    size, ratio = pool.output_size, pool.sampling_ratio
    used = [maps[name] for name in pool.featmap_names]
    if len(used) == 1:
        return roi_align(used[0], rois, size, pool.scales[0], ratio)
    mapper = pool.map_levels
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = (mapper.lvl0 + (sides / mapper.s0).log2() + mapper.eps).floor().clamp(mapper.k_min, mapper.k_max)
    places, pooled = [], []
    for index, (map_, scale) in enumerate(zip(used, pool.scales, strict=True)):
        place = (level == mapper.k_min + index).nonzero()[:, 0]
        places.append(place)
        pooled.append(roi_align(map_, rois[place], size, scale, ratio))
    order = torch.cat(places).argsort()
    return torch.cat(pooled)[order]
