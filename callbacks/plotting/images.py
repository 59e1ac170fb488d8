"""Tensors to pictures. Pure functions: pictures in and out are uint8 (3, H, W); no trainer, no files but ``save``."""

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
_IGNORE_COLOUR = (190, 190, 190)
_FIRST_COLOURS = [(24, 24, 28), (230, 75, 70), (78, 186, 105), (72, 118, 232), (245, 196, 66), (198, 92, 214)]
PAPER, INK, _GAP = (255, 255, 255), (40, 40, 44), 4


@cache
def palette(num_classes: int) -> Tensor:
    """A colour per class: uint8 (256, 3). Class 0 is near black; 255, "ignore", is grey; colours never change with K."""
    colours = torch.zeros(256, 3, dtype=torch.uint8)
    for index in range(num_classes):
        hue, value = index * 0.618034 % 1, 0.65 + 0.3 * (index % 2)
        fallback = [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.65, value)]
        colours[index] = torch.tensor(_FIRST_COLOURS[index] if index < len(_FIRST_COLOURS) else fallback)
    colours[IGNORE] = torch.tensor(_IGNORE_COLOUR)
    return colours


def to_picture(image: Tensor) -> Tensor:
    """An image float (C, H, W) in [0, 1], one or three channels -> picture."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)


def colorize(mask: Tensor, num_classes: int) -> Tensor:
    """Class ids int (H, W) -> picture in the classes' colours."""
    return palette(num_classes)[mask.cpu().long()].permute(2, 0, 1)


def overlay(
    picture: Tensor, mask: Tensor, num_classes: int, opacity: float = 0.5, background: int | None = 0
) -> Tensor:
    """The classes' colours over a picture; the background class, if there is one, and ignored pixels stay clear."""
    mask = mask.cpu()
    clear = (mask == IGNORE) | (mask == (IGNORE if background is None else background))
    mixed = torch.lerp(picture.float(), colorize(mask, num_classes).float(), opacity)
    return torch.where(clear, picture, mixed.round().to(torch.uint8))


def dimmed(picture: Tensor) -> Tensor:
    """A picture in dark grey, for something bright on it."""
    return (picture.float().mean(0, keepdim=True) * 0.45).to(torch.uint8).expand(3, -1, -1)


def error_map(picture: Tensor, prediction: Tensor, truth: Tensor) -> Tensor:
    """Wrong pixels red over a dimmed picture, ignored ones grey."""
    prediction, truth = prediction.cpu(), truth.cpu()
    red, grey = (torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1) for colour in ((244, 62, 62), _IGNORE_COLOUR))
    return torch.where(truth == IGNORE, grey, torch.where(prediction != truth, red, dimmed(picture)))


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture at another height and width: enlarged without blur, reduced smoothly."""
    mode = {"mode": "nearest"} if size[0] >= picture.shape[1] else {"mode": "bilinear", "antialias": True}
    return F.interpolate(picture[None].float(), size, **mode)[0].round().to(torch.uint8)


def fitting(picture: Tensor, height: int, width: int) -> tuple[int, int]:
    """The largest height and width of a picture's own aspect that a tile of this height and width holds."""
    scale = min(height / picture.shape[1], width / picture.shape[2])
    return max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[2] * scale))


def tiled(picture: Tensor, height: int, width: int) -> Tensor:
    """Centres a picture in a tile that it is made to fit."""
    size = fitting(picture, height, width)
    tile = torch.tensor(PAPER, dtype=torch.uint8).view(3, 1, 1).repeat(1, height, width)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    tile[:, top : top + size[0], left : left + size[1]] = resize(picture, size)
    return tile


def contact_sheet(rows: dict[str, Sequence[Tensor]], legend: dict[str, int] | None = None, side: int = 128) -> Tensor:
    """Pictures in named rows, one column per sample, with a legend of class names and ids below.

    Pictures may differ in size: each is fitted into a tile whose longer side is ``side``, of the first picture's aspect.
    """
    first = next(iter(rows.values()))[0]
    height, width = fitting(first, side, side)
    count = max(map(len, rows.values()))
    font = ImageFont.load_default(13)
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
    for r, (name, pictures) in enumerate(rows.items()):
        y = _GAP + r * (height + _GAP)
        draw.text((label - 8, y + height // 2), name, INK, font, anchor="rm")
        for c, picture in enumerate(pictures):
            tile = tiled(picture, height, width).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), (label + c * (width + _GAP), y))
    colours = palette(max([0, *(legend or {}).values()]) + 1)
    for name, index, x, line in entries:
        y = bottom + 12 + 24 * line
        draw.rounded_rectangle((x, y - 7, x + 14, y + 7), 3, tuple(colours[index].tolist()), (150, 150, 150))
        draw.text((x + 20, y), name, INK, font, anchor="lm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def save(picture: Tensor, path: Path) -> None:
    """Writes a picture, or a grey one uint8 (1, H, W), as PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)


def save_mask(mask: Tensor, path: Path, num_classes: int) -> None:
    """Writes class ids int (H, W) as a palette PNG: its values are the ids, its colours the classes'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask.cpu().to(torch.uint8).numpy())
    picture.putpalette(palette(num_classes).flatten().tolist())
    picture.save(path)
