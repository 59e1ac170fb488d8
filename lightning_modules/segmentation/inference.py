"""Inference: pictures larger than memory by tiles, and the average over flips and scales."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation.geometry import mirror_pad
from darkroom.protocols import SegmentationModel


@dataclass
class Inference:
    """How test and prediction ask the network. By default once, for the whole picture.

    Args:
        tile: side of the tiles in pixels; None: the whole picture at once.
        overlap: part of a tile that its neighbour covers too, in [0, 1); the two are blended, each weighted by the distance
            to its own border. A network that pads nothing, which it says by ``seamless``, sees true surroundings and needs
            none (overlap-tile, Ronneberger et al. 2015, figure 2): its tiles abut.
        tiles_at_once: how many tiles of a picture go through the network together.
        flip: average with the picture flipped left-right.
        scales: average over the picture resized by these factors.
    """

    tile: int | None = None
    overlap: float = 0.25
    tiles_at_once: int = 4
    flip: bool = False
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise UsageError(
                f"model.inference.tile is {self.tile}; it is a side in pixels, or null for the whole picture"
            )
        if not 0 <= self.overlap < 1:
            raise UsageError(f"model.inference.overlap is {self.overlap}; it is a part of a tile, in [0, 1)")
        if self.tiles_at_once < 1:
            raise UsageError(f"model.inference.tiles_at_once is {self.tiles_at_once}; it must be at least 1")
        self.scales = tuple(self.scales)
        if not self.scales or min(self.scales) <= 0:
            raise UsageError(f"model.inference.scales is {list(self.scales)}; it needs factors above 0, such as [1.0]")

    def __call__(self, model: SegmentationModel, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) of images (B, C, H, W); log-probabilities where several views are averaged."""
        views = list(product(self.scales, (False, True) if self.flip else (False,)))
        if views == [(1.0, False)]:
            return self._view(model, image)
        total = sum(self._probabilities(model, image, scale, flipped) for scale, flipped in views)
        return (total / len(views)).clamp(min=torch.finfo(total.dtype).tiny).log()

    def _probabilities(self, model: SegmentationModel, image: Tensor, scale: float, flipped: bool) -> Tensor:
        size = image.shape[-2:]
        if scale != 1:
            scaled = [max(1, round(side * scale)) for side in size]
            image = F.interpolate(image, scaled, mode="bilinear", align_corners=False, antialias=True)
        probabilities = self._view(model, image.flip(-1) if flipped else image).float().softmax(1)
        if scale != 1:
            probabilities = F.interpolate(probabilities, size, mode="bilinear", align_corners=False)
        return probabilities.flip(-1) if flipped else probabilities

    def _view(self, model: SegmentationModel, image: Tensor) -> Tensor:
        if self.tile is None or max(image.shape[-2:]) <= self.tile:
            return model(image)
        return torch.cat([self._by_tiles(model, one) for one in image.split(1)])

    def _by_tiles(self, model: SegmentationModel, image: Tensor) -> Tensor:
        """Log-probabilities (1, K, H, W), blended from tiles."""
        height, width = image.shape[-2:]
        margin = getattr(model.network, "margin", 0)
        tile = [min(self.tile, side) for side in (height, width)]
        need = [model.network.input_size(side) if margin else side for side in tile]
        if getattr(model.network, "seamless", False):
            starts = [range(0, side, extent) for side, extent in zip((height, width), tile, strict=True)]
        else:
            starts = [_starts(side, extent, self.overlap) for side, extent in zip((height, width), tile, strict=True)]
        ends = [first[-1] + extent - margin for first, extent in zip(starts, need, strict=True)]
        padded = mirror_pad(image, margin, max(0, ends[0] - height), margin, max(0, ends[1] - width))
        weight = _tent(tile[0], image.device)[:, None] * _tent(tile[1], image.device)

        total = image.new_zeros(
            1, model.num_classes, starts[0][-1] + tile[0], starts[1][-1] + tile[1], dtype=torch.float32
        )
        weights = torch.zeros_like(total[:, :1])
        for some in _chunks(list(product(*starts)), self.tiles_at_once):
            windows = torch.cat([padded[..., y : y + need[0], x : x + need[1]] for y, x in some])
            probabilities = model.logits_within(windows, (tile[0], tile[1])).float().softmax(1)
            for (y, x), one in zip(some, probabilities, strict=True):
                total[0, :, y : y + tile[0], x : x + tile[1]] += one * weight
                weights[0, 0, y : y + tile[0], x : x + tile[1]] += weight
        return (total / weights).clamp(min=torch.finfo(torch.float32).tiny).log()[..., :height, :width]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin: evenly spread from the first pixel to the last, overlapping by at least this part."""
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(side - tile) // step) + 1
    return [round(index * (side - tile) / max(1, count - 1)) for index in range(count)]


def _tent(side: int, device: torch.device) -> Tensor:
    """1 at a tile's border pixels, rising by 1 a pixel to its middle."""
    rising = torch.arange(1, side + 1, device=device, dtype=torch.float32)
    return torch.minimum(rising, rising.flip(0))


def _chunks(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
