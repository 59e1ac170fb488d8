"""Inference: tiles for images larger than memory, and averages over flips and scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation.geometry import margin_of, mirror_pad
from darkroom.lightning_modules.tiling import Tiling, chunks
from darkroom.protocols import SeamlessNetwork, SegmentationModel, UnpaddedNetwork


@dataclass(frozen=True)
class Inference(Tiling):
    """Options of test and prediction. By default one pass over the whole image.

    Args:
        tile: side of the tiles in pixels; None: the whole image at once.
        overlap: fraction of a tile that its neighbour covers too, in [0, 1); the two are blended, each weighted by the
            distance to its own border. A ``SeamlessNetwork`` needs no overlap: its tiles abut (overlap-tile, Ronneberger et
            al. 2015, figure 2).
        tiles_at_once: batch size of tiles.
        flip: average with the image flipped left-right.
        scales: average over the image resized by these factors.

    Raises:
        UsageError: a value is out of its range.
    """

    flip: bool = False
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or min(self.scales) <= 0:
            raise UsageError(f"model.inference.scales must be factors above 0, such as [1.0], got {list(self.scales)}")

    def __call__(self, model: SegmentationModel, image: Tensor) -> Tensor:
        """Compute logits (B, K, H, W) of images (B, C, H, W), log-probabilities if several views are averaged."""
        views = list(product(self.scales, (False, True) if self.flip else (False,)))
        if views == [(1.0, False)]:
            return self._view(model, image)
        total = self._probabilities(model, image, *views[0])
        for scale, flipped in views[1:]:
            total = total + self._probabilities(model, image, scale, flipped)
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
        if self.fits(image.shape[-2:]):
            return model(image)
        return torch.cat([self._blend_tiles(model, one) for one in image.split(1)])

    def _blend_tiles(self, model: SegmentationModel, image: Tensor) -> Tensor:
        """Compute log-probabilities (1, K, H, W) of tiles and blend them."""
        height, width = image.shape[-2:]
        network, margin = model.network, margin_of(model.network)
        tile = [self.extent(side) for side in (height, width)]
        need = [network.input_size(side) for side in tile] if isinstance(network, UnpaddedNetwork) and margin else tile
        if isinstance(network, SeamlessNetwork) and network.seamless:
            starts = [list(range(0, side, extent)) for side, extent in zip((height, width), tile, strict=True)]
        else:
            starts = [self.starts(side) for side in (height, width)]
        ends = [first[-1] + extent - margin for first, extent in zip(starts, need, strict=True)]
        padded = mirror_pad(image, margin, max(0, ends[0] - height), margin, max(0, ends[1] - width))
        weight = _tent(tile[0], image.device)[:, None] * _tent(tile[1], image.device)

        total = image.new_zeros(
            1, model.num_classes, starts[0][-1] + tile[0], starts[1][-1] + tile[1], dtype=torch.float32
        )
        weights = torch.zeros_like(total[:, :1])
        for some in chunks(list(product(*starts)), self.tiles_at_once):
            windows = torch.cat([padded[..., y : y + need[0], x : x + need[1]] for y, x in some])
            probabilities = model.logits_within(windows, (tile[0], tile[1])).float().softmax(1)
            for (y, x), one in zip(some, probabilities, strict=True):
                total[0, :, y : y + tile[0], x : x + tile[1]] += one * weight
                weights[0, 0, y : y + tile[0], x : x + tile[1]] += weight
        return (total / weights).clamp(min=torch.finfo(torch.float32).tiny).log()[..., :height, :width]


def _tent(side: int, device: torch.device) -> Tensor:
    """Return weights that rise from 1 at a tile's border by 1 per pixel to its middle."""
    rising = torch.arange(1, side + 1, device=device, dtype=torch.float32)
    return torch.minimum(rising, rising.flip(0))
