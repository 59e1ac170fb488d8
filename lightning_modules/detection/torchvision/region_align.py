"""RegionAlign: RoIAlign over a pyramid, on CPUs by matrix products."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from darkroom.lightning_modules.detection.torchvision.cpu_paths import cpu_paths

# Pixels of a map above which torchvision's loop over samples takes less time than products with the whole map.
_LARGEST = 64 * 64
_CHUNK = 2**23  # values between the two products, at most: 32 MiB


class RegionAlign(MultiScaleRoIAlign):
    """torchvision's ``MultiScaleRoIAlign``; in training on CPUs, maps of up to 64 x 64 pixels are pooled by
    ``align_by_products``.

    There the backward pass of torchvision's RoIAlign takes three to five times as long as its forward pass
    (docs/guides/performance.md).
    """

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool regions from the maps of their levels (Lin et al. 2017, equation 1): (R, C, P, Q), in their order.

        Args:
            x: maps (B, C, H, W) by name.
            boxes: of each image, xyxy in pixels of the images, (n, 4).
            image_shapes: height and width of each image.
        """
        maps = [x[name] for name in self.featmap_names]
        trains = torch.is_grad_enabled() and maps[0].requires_grad
        if maps[0].device.type != "cpu" or not trains or not cpu_paths.get() or self.sampling_ratio < 1:
            return super().forward(x, boxes, image_shapes)
        assert self.scales is not None, "scales and map_levels must be set, as by rcnn._roi_align"
        assert self.map_levels is not None
        rois = torch.cat([F.pad(some, (1, 0), value=index) for index, some in enumerate(boxes)])
        level = self.map_levels(boxes) if len(maps) > 1 else torch.zeros(len(rois))
        places, pooled = [], []
        for index, (one, scale) in enumerate(zip(maps, self.scales, strict=True)):
            places.append((level == index).nonzero()[:, 0])
            pool = align_by_products if one.shape[2] * one.shape[3] <= _LARGEST else roi_align
            pooled.append(pool(one, rois[places[-1]], self.output_size, scale, self.sampling_ratio).to(maps[0].dtype))
        return torch.cat(pooled)[torch.cat(places).argsort()]


def align_by_products(
    maps: Tensor, rois: Tensor, output_size: tuple[int, int], scale: float, sampling_ratio: int
) -> Tensor:
    """Compute torchvision's ``roi_align`` as A_y F A_x^T for each region: (R, C, P, Q) of the dtype of the maps.

    The products are in float32.

    Bilinear weights are a product of those along both axes, and so is a mean over a grid of samples.

    Args:
        maps: (B, C, H, W).
        rois: index of the image, then a box in pixels of the images, (R, 5).
        output_size: P, Q.
        scale: pixels of the maps to one of the images.
        sampling_ratio: samples along each axis of a cell, at least 1.
    """
    channels, height, width = maps.shape[1:]
    rows = interpolation_weights(rois[:, 2], rois[:, 4], output_size[0], height, scale, sampling_ratio)
    columns = interpolation_weights(rois[:, 1], rois[:, 3], output_size[1], width, scale, sampling_ratio)
    places, pooled = (
        [rois.new_zeros(0, dtype=torch.long)],
        [maps.new_zeros(0, channels, *output_size, dtype=torch.float32)],
    )
    step = max(1, _CHUNK // (output_size[0] * channels * width))
    with torch.autocast(maps.device.type, enabled=False):
        for image in range(len(maps)):
            flat = maps[image].float().transpose(0, 1).flatten(1)  # (H, C W)
            for place in (rois[:, 0] == image).nonzero()[:, 0].split(step):
                across = rows[place].flatten(0, 1) @ flat  # A_y F: (r P, C W)
                across = across.view(len(place), output_size[0] * channels, width)
                cells = (across @ columns[place].mT).view(len(place), output_size[0], channels, output_size[1])
                places.append(place)
                pooled.append(cells.transpose(1, 2))
    return torch.cat(pooled)[torch.cat(places).argsort()].to(maps.dtype)


def interpolation_weights(low: Tensor, high: Tensor, cells: int, length: int, scale: float, samples: int) -> Tensor:
    """Compute the weights of a map's pixels in the cells of regions along one axis, float32 (R, cells, length).

    Args:
        low, high: sides of the boxes, (R,).
        cells: number of cells of a region.
        length: pixels of the map.
        scale: pixels of the map to one of ``low`` and ``high``.
        samples: number of samples in a cell.
    """
    start = low.float() * scale
    extent = (high.float() * scale - start).clamp(min=1)
    fractions = (torch.arange(cells * samples, device=low.device) + 0.5) / (cells * samples)
    coordinates = start[:, None] + extent[:, None] * fractions  # (R, cells x samples)
    inside = (coordinates >= -1) & (coordinates <= length)
    distance = coordinates.clamp(0, length - 1)[..., None] - torch.arange(length, device=low.device)
    weights = (1 - distance.abs()).clamp(min=0) * inside[..., None]
    return weights.unflatten(1, (cells, samples)).mean(2)
