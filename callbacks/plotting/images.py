"""Images. Pure functions; images in and out are uint8 (3, H, W), unless stated otherwise."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from darkroom.callbacks.plotting.style import ERROR_COLOUR, HEAT, IGNORE, IGNORE_COLOUR, class_palette

PAPER, INK = (255, 255, 255), (40, 40, 44)


@cache
def palette(num_classes: int) -> Tensor:
    """Return a colour per class, uint8 (256, 3); see ``style.class_palette``."""
    return torch.from_numpy(class_palette(num_classes))


def to_uint8_rgb(image: Tensor) -> Tensor:
    """Convert an image float (C, H, W) in [0, 1] of one or three channels to uint8 (3, H, W), on the CPU."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)


def colorize(mask: Tensor, num_classes: int) -> Tensor:
    """Convert class ids int (H, W) to an image in the classes' colours."""
    return palette(num_classes)[mask.cpu().long()].permute(2, 0, 1)


def overlay(image: Tensor, mask: Tensor, num_classes: int, opacity: float = 0.5, background: int | None = 0) -> Tensor:
    """Blend the classes' colours over an image, except at ignored pixels and the background class, if there is one."""
    mask = mask.cpu()
    clear = (mask == IGNORE) | (mask == (IGNORE if background is None else background))
    mixed = torch.lerp(image.float(), colorize(mask, num_classes).float(), opacity)
    return torch.where(clear, image, mixed.round().to(torch.uint8))


def darken(image: Tensor) -> Tensor:
    """Convert an image to dark grey."""
    return (image.float().mean(0, keepdim=True) * 0.45).to(torch.uint8).expand(3, -1, -1)


def error_map(image: Tensor, prediction: Tensor, truth: Tensor) -> Tensor:
    """Draw wrong pixels red over a darkened image, ignored ones grey."""
    prediction, truth = prediction.cpu(), truth.cpu()
    red, grey = (torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1) for colour in (ERROR_COLOUR, IGNORE_COLOUR))
    return torch.where(truth == IGNORE, grey, torch.where(prediction != truth, red, darken(image)))


@cache
def _heat_map() -> Tensor:
    """Return the colours of a perceptually uniform map from cold to hot, float32 (256, 3) in [0, 255]."""
    from matplotlib import colormaps

    return torch.from_numpy(255 * colormaps[HEAT](np.linspace(0, 1, 256))[:, :3]).float()


def heat_colours(values: Tensor) -> Tensor:
    """Convert values (H, W) in [0, 1] to colours from black over red to pale yellow: float32 (3, H, W) in [0, 255]."""
    return _heat_map()[(values.clamp(0, 1) * 255).round().long()].permute(2, 0, 1)


def overlay_heat(image: Tensor, values: Tensor) -> Tensor:
    """Blend a heat map of values (h, w) in [0, 1], resized, over a darkened image uint8 (3, H, W)."""
    values = F.interpolate(values.float().cpu()[None, None], image.shape[1:], mode="bilinear")[0, 0].clamp(0, 1)
    blended = torch.lerp(darken(image).float(), heat_colours(values), 0.15 + 0.7 * values)
    return blended.round().to(torch.uint8)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image to a height and width: nearest neighbour to enlarge, bilinear with antialiasing to reduce."""
    grows = size[0] >= image.shape[1]
    resized = F.interpolate(image[None].float(), size, mode="nearest" if grows else "bilinear", antialias=not grows)
    return resized[0].round().to(torch.uint8)


def fit_size(image: Tensor, height: int, width: int) -> tuple[int, int]:
    """Return the largest height and width, at the image's aspect ratio, that fit a tile of this height and width."""
    scale = min(height / image.shape[1], width / image.shape[2])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[2] * scale))


def save(image: Tensor, path: Path) -> None:
    """Write an image, uint8 (3, H, W) or (1, H, W), as PNG; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)


def save_mask(mask: Tensor, path: Path, num_classes: int) -> None:
    """Write class ids int (H, W) as a palette PNG: its values are the ids, its colours the classes'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    indexed = Image.fromarray(mask.cpu().to(torch.uint8).numpy())
    indexed.putpalette(palette(num_classes).flatten().tolist())
    indexed.save(path)
