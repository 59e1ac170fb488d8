"""Heat maps over images. Pure functions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.callbacks.plotting.images import darken

_COLOURS = ((38, 16, 84), (140, 30, 110), (240, 84, 50), (255, 176, 50), (255, 246, 170))  # from cold to hot, evenly


def heat_colours(values: Tensor) -> Tensor:
    """Convert values (H, W) in [0, 1] to colours from violet over red to pale yellow: float32 (3, H, W) in [0, 255]."""
    colours = torch.tensor(_COLOURS, dtype=torch.float32)
    place = values.clamp(0, 1) * (len(colours) - 1)
    below = place.floor().long().clamp(max=len(colours) - 2)
    weight = (place - below)[..., None]
    return torch.lerp(colours[below], colours[below + 1], weight).permute(2, 0, 1)


def overlay_heat(image: Tensor, values: Tensor) -> Tensor:
    """Blend a heat map of values (h, w) in [0, 1], resized, over a darkened image uint8 (3, H, W)."""
    values = F.interpolate(values.float().cpu()[None, None], image.shape[1:], mode="bilinear")[0, 0].clamp(0, 1)
    blended = torch.lerp(darken(image).float(), heat_colours(values), 0.15 + 0.7 * values)
    return blended.round().to(torch.uint8)
