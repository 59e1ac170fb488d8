"""Heat over pictures: where something is strong. Pure functions, as in drawing.py."""

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.callbacks.plotting.images import dimmed

_COLOURS = ((38, 16, 84), (140, 30, 110), (240, 84, 50), (255, 176, 50), (255, 246, 170))  # from cold to hot, evenly


def heat_colours(values: Tensor) -> Tensor:
    """Values (H, W) in [0, 1] as colours from violet over red to pale yellow: float32 (3, H, W) in [0, 255]."""
    colours = torch.tensor(_COLOURS, dtype=torch.float32)
    place = values.clamp(0, 1) * (len(colours) - 1)
    below = place.floor().long().clamp(max=len(colours) - 2)
    part = (place - below)[..., None]
    return torch.lerp(colours[below], colours[below + 1], part).permute(2, 0, 1)


def heated(picture: Tensor, values: Tensor) -> Tensor:
    """A picture uint8 (3, H, W), dimmed, that glows where values (h, w) in [0, 1], brought to its size, are high."""
    values = F.interpolate(values.float().cpu()[None, None], picture.shape[1:], mode="bilinear")[0, 0].clamp(0, 1)
    glowing = torch.lerp(dimmed(picture).float(), heat_colours(values), 0.15 + 0.7 * values)
    return glowing.round().to(torch.uint8)
