"""Images and contact sheets. Pure functions; images in and out are uint8 (3, H, W), unless stated otherwise."""

import colorsys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from darkroom.errors import UsageError

IGNORE = 255
_IGNORE_COLOUR = (190, 190, 190)
_FIRST_COLOURS = [(24, 24, 28), (230, 75, 70), (78, 186, 105), (72, 118, 232), (245, 196, 66), (198, 92, 214)]
PAPER, INK, _GAP = (255, 255, 255), (40, 40, 44), 4


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font of all figures, which Pillow has if built with FreeType, as in its wheels.

    Raises:
        UsageError: Pillow was built without FreeType.
    """
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UsageError("Pillow was built without FreeType, which figures need; install a wheel of Pillow")
    return font


@cache
def palette(num_classes: int) -> Tensor:
    """Return a colour per class: uint8 (256, 3). Class 0 is near black and 255, "ignore", grey, for any number."""
    colours = torch.zeros(256, 3, dtype=torch.uint8)
    for index in range(num_classes):
        hue, value = index * 0.618034 % 1, 0.65 + 0.3 * (index % 2)
        fallback = [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.65, value)]
        colours[index] = torch.tensor(_FIRST_COLOURS[index] if index < len(_FIRST_COLOURS) else fallback)
    colours[IGNORE] = torch.tensor(_IGNORE_COLOUR)
    return colours


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
    red, grey = (torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1) for colour in ((244, 62, 62), _IGNORE_COLOUR))
    return torch.where(truth == IGNORE, grey, torch.where(prediction != truth, red, darken(image)))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image to a height and width: nearest neighbour to enlarge, bilinear with antialiasing to reduce."""
    grows = size[0] >= image.shape[1]
    resized = F.interpolate(image[None].float(), size, mode="nearest" if grows else "bilinear", antialias=not grows)
    return resized[0].round().to(torch.uint8)


def fit_size(image: Tensor, height: int, width: int) -> tuple[int, int]:
    """Return the largest height and width, at the image's aspect ratio, that fit a tile of this height and width."""
    scale = min(height / image.shape[1], width / image.shape[2])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[2] * scale))


def center_in_tile(image: Tensor, height: int, width: int) -> Tensor:
    """Resize an image to fit a tile and center it there."""
    size = fit_size(image, height, width)
    tile = torch.tensor(PAPER, dtype=torch.uint8).view(3, 1, 1).repeat(1, height, width)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    tile[:, top : top + size[0], left : left + size[1]] = resize(image, size)
    return tile


def contact_sheet(
    rows: Mapping[str, Sequence[Tensor]], legend: Mapping[str, int] | None = None, side: int = 128
) -> Tensor:
    """Draw images in named rows, one column per sample, with a legend of class names and ids below.

    Images may differ in size: each is resized to fit a tile with the first image's aspect ratio, ``side`` on its longer
    side.
    """
    first = next(iter(rows.values()))[0]
    height, width = fit_size(first, side, side)
    count = max(map(len, rows.values()))
    font = load_font(13)
    label = max(round(font.getlength(name)) for name in rows) + 14
    total_width = label + count * (width + _GAP) + _GAP
    entries, x, line = [], label, 0
    for name, index in (legend or {}).items():  # wrapped to the width of the sheet
        extent = 22 + round(font.getlength(name)) + 12
        if x + extent > total_width and x > label:
            x, line = label, line + 1
        entries.append((name, index, x, line))
        x += extent
    bottom = len(rows) * (height + _GAP) + _GAP
    sheet = Image.new("RGB", (total_width, bottom + (24 * (line + 1) if entries else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for r, (name, images) in enumerate(rows.items()):
        y = _GAP + r * (height + _GAP)
        draw.text((label - 8, y + height // 2), name, INK, font, anchor="rm")
        for c, image in enumerate(images):
            tile = center_in_tile(image, height, width).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), (label + c * (width + _GAP), y))
    colours = palette(max([0, *(legend or {}).values()]) + 1)
    for name, index, x, line in entries:
        y = bottom + 12 + 24 * line
        draw.rounded_rectangle((x, y - 7, x + 14, y + 7), 3, tuple(colours[index].tolist()), (150, 150, 150))
        draw.text((x + 20, y), name, INK, font, anchor="lm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


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
