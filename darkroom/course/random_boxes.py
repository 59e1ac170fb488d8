"""Random boxes for exercises of detection."""

import torch
from torch import Generator, Tensor


def random_boxes(generator: Generator, count: int, side: float = 64.0) -> Tensor:
    """Return boxes xyxy inside a square image, float (count, 4), with sides of an eighth to a half of it."""
    sizes = side * (0.125 + 0.375 * torch.rand(count, 2, generator=generator))
    corners = torch.rand(count, 2, generator=generator) * (side - sizes)
    return torch.cat([corners, corners + sizes], 1)


def near(boxes: Tensor, generator: Generator, copies: int, shift: float = 3.0) -> Tensor:
    """Return boxes and moved copies of them, (len(boxes) * copies, 4)."""
    repeated = boxes.repeat(copies, 1)
    return repeated + shift * torch.randn(len(repeated), 2, generator=generator).repeat(1, 2)
