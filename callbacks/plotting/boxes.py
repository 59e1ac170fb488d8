"""Boxes and masks of objects over pictures. Pure functions, as in drawing.py.

Objects are a detector's targets or detections, one dict per picture: ``boxes`` float (N, 4), xyxy in its pixels, ``labels``
int (N,) from 1, and perhaps ``scores`` (N,), ``masks`` bool (N, H, W), ``difficult`` and ``iscrowd`` bool (N,).
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_area, box_iou

from darkroom.callbacks.plotting.images import dimmed, palette, resize

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
_FALSE, _MISSED = (244, 62, 62), (255, 255, 255)
_DARK, _LIGHT = (20, 20, 24), (255, 255, 255)
_READABLE = 256  # pixels of the longer side that lines and names need


def class_index(label: int) -> int:
    """Where a label's colour stands in the palette; after 254 classes the colours begin anew."""
    return 1 + (label - 1) % 254


def confident(found: Mapping[str, Tensor], score_threshold: float, most: int | None = None) -> dict[str, Tensor]:
    """The detections with at least this score, best first, ``most`` of them at most; on the CPU."""
    order = found["scores"].argsort(descending=True, stable=True)
    best = order[found["scores"][order] >= score_threshold][:most]
    return {name: value[best].cpu() for name, value in found.items()}


def captions(objects: Mapping[str, Tensor], class_names: Sequence[str]) -> list[str]:
    """What is written of each object: its class and, of a detection, its score."""
    names = [class_names[label - 1] for label in objects["labels"].tolist()]
    if "scores" not in objects:
        return names
    return [f"{name} {score:.2f}".lstrip() for name, score in zip(names, objects["scores"].tolist(), strict=True)]


def unsure(objects: Mapping[str, Tensor]) -> Tensor:
    """Which objects are neither right nor wrong to find, bool (N,): difficult ones and crowds."""
    neither = torch.zeros(len(objects["labels"]), dtype=torch.bool)
    return neither | objects.get("difficult", neither) | objects.get("iscrowd", neither)


def mistakes(found: Mapping[str, Tensor], truth: Mapping[str, Tensor], iou: float = 0.5) -> tuple[Tensor, Tensor]:
    """Which detections match no object of their class, bool (M,), and which objects none matches, bool (N,).

    As COCO counts: the best score chooses first, and takes of the objects left the one it overlaps most. A detection that
    matches an unsure object only, or lies in a crowd, is no mistake, nor is an unsure object that none matches.
    """
    doubtful = unsure(truth)
    false, missed = torch.ones(len(found["labels"]), dtype=torch.bool), ~doubtful
    if not len(false) or not len(missed):
        return false, missed
    overlap = box_iou(found["boxes"], truth["boxes"])
    if "iscrowd" in truth:  # for a crowd, the part of the detection that lies in it
        area = box_area(found["boxes"])[:, None]
        common = overlap * (area + box_area(truth["boxes"])) / (1 + overlap)
        overlap = torch.where(truth["iscrowd"], common / area, overlap)
    matches = (overlap >= iou) & (found["labels"][:, None] == truth["labels"])
    for index in found["scores"].argsort(descending=True, stable=True).tolist():
        free = matches[index] & missed
        if free.any():
            missed[torch.where(free, overlap[index], 0).argmax()] = False
        false[index] = not (free | matches[index] & doubtful).any()
    return false, missed


def draw_boxes(
    picture: Tensor, objects: Mapping[str, Tensor], class_names: Sequence[str], size: tuple[int, int] | None = None
) -> Tensor:
    """Objects in their classes' colours: box, name, score and mask, what there is of them; unsure ones are dashed.

    The first objects lie on top; where their names would cover each other or the middle of an object, later ones have
    none. A single class is not named.

    Args:
        picture: uint8 (3, H, W).
        objects: see the head of this file; on the CPU.
        class_names: that of label i is ``class_names[i - 1]``.
        size: height and width of the drawn picture; None: those of the picture, times a whole number if it is small.
    """
    labels = objects["labels"].tolist()
    colours = [tuple(palette(255)[class_index(label)].tolist()) for label in labels]
    return _draw(picture, objects, colours, captions(objects, _shown(class_names)), size)


def draw_mistakes(
    picture: Tensor,
    found: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    class_names: Sequence[str],
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Over a dimmed picture, detections that are wrong in red and objects that were missed in dashed white.

    Args: as of ``draw_boxes``; ``found`` are the detections and ``truth`` the target.
    """
    false, missed = mistakes(found, truth)
    wrong = {name: found[name][false] for name in ("boxes", "labels", "scores")}
    absent = {name: truth[name][missed] for name in ("boxes", "labels")}
    shown = _shown(class_names)
    names = captions(wrong, shown) + [name and f"missed {name}" for name in captions(absent, shown)]
    colours = [_FALSE] * len(wrong["labels"]) + [_MISSED] * len(absent["labels"])
    objects = {name: torch.cat([wrong[name], absent[name]]) for name in absent}
    objects["difficult"] = torch.arange(len(names)) >= len(wrong["labels"])
    return _draw(dimmed(picture), objects, colours, names, size)


def _shown(class_names: Sequence[str]) -> Sequence[str]:
    return class_names if len(class_names) > 1 else ("",)


def _draw(
    picture: Tensor,
    objects: Mapping[str, Tensor],
    colours: Sequence[Colour],
    names: Sequence[str],
    size: tuple[int, int] | None,
) -> Tensor:
    height, width = picture.shape[1:]
    times = -(-_READABLE // max(height, width))
    size = size or (height * times, width * times)
    line = max(2, round(max(size) / 250))
    canvas = resize(picture, size)
    if "masks" in objects:  # whose outlines say more than the boxes
        canvas, line = _tinted(canvas, objects["masks"], colours, line), line // 2
    image = Image.fromarray(np.ascontiguousarray(canvas.permute(1, 2, 0).numpy()))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(12, round(max(size) / 40)))
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    rectangles = [_pixels(box, size) for box in (objects["boxes"].float() * scale).round().int().tolist()]
    dashes = [4 * line * flag for flag in unsure(objects).tolist()]
    for rectangle, colour, dash in reversed(list(zip(rectangles, colours, dashes, strict=True))):
        _rectangle(draw, rectangle, colour, line, dash)
    _write(draw, rectangles, colours, names, font, size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _tinted(canvas: Tensor, masks: Tensor, colours: Sequence[Colour], line: int) -> Tensor:
    """Objects' pixels tinted in their colours, their outlines wholly in them."""
    canvas, reach = canvas.float(), line // 2
    for mask, colour in reversed(list(zip(masks, colours, strict=True))):
        mask = F.interpolate(mask[None, None].float(), canvas.shape[1:], mode="nearest-exact")[0]
        inside = 1 - F.max_pool2d(1 - mask, 2 * reach + 1, 1, reach)
        canvas = torch.lerp(canvas, torch.tensor(colour).float().view(3, 1, 1), mask - 0.6 * inside)
    return canvas.round().to(torch.uint8)


def _pixels(box: Sequence[int], size: tuple[int, int]) -> Rectangle:
    """The first and last pixels (left, top, right, bottom) of a box, within the picture."""
    left, top = (min(max(edge, 0), side - 1) for edge, side in zip(box[:2], size[::-1], strict=True))
    right, bottom = (min(edge, side) - 1 for edge, side in zip(box[2:], size[::-1], strict=True))
    return left, top, max(left, right), max(top, bottom)


def _rectangle(draw: ImageDraw.ImageDraw, rectangle: Rectangle, colour: Colour, line: int, dash: int) -> None:
    """The inner border of a rectangle, dashed if ``dash``, the pixels of one dash, is not 0."""
    left, top, right, bottom = rectangle
    if not dash:
        draw.rectangle(rectangle, outline=colour, width=line)
        return
    for x in range(left, right + 1, 2 * dash):
        for y in (top, max(top, bottom - line + 1)):
            draw.rectangle((x, y, min(x + dash - 1, right), min(y + line - 1, bottom)), colour)
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, max(left, right - line + 1)):
            draw.rectangle((x, y, min(x + line - 1, right), min(y + dash - 1, bottom)), colour)


def _write(
    draw: ImageDraw.ImageDraw,
    rectangles: Sequence[Rectangle],
    colours: Sequence[Colour],
    names: Sequence[str],
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
) -> None:
    """Names on tags in their colours, dark on light ones and light on dark ones; none covers another, nor the middle of a
    rectangle."""
    middles = [((left + right) // 2, (top + bottom) // 2) for left, top, right, bottom in rectangles]
    taken = [(x, y, x + 1, y + 1) for x, y in middles]
    for rectangle, colour, name in zip(rectangles, colours, names, strict=True):
        tag = _spot(rectangle, round(font.getlength(name)) + 6, round(font.size * 1.25), size, taken) if name else None
        if tag is None:
            continue
        taken.append(tag)
        left, top, right, bottom = tag
        draw.rectangle((left, top, right - 1, bottom - 1), colour)
        brightness = sum(part * share for part, share in zip(colour, (0.299, 0.587, 0.114), strict=True))
        draw.text((left + 3, (top + bottom) / 2), name, _DARK if brightness > 140 else _LIGHT, font, anchor="lm")


def _spot(
    rectangle: Rectangle, width: int, height: int, size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """Where a tag fits beside its rectangle or into it, within the picture and clear of what is taken."""
    left, top, right, bottom = rectangle
    rows = (top - height, top, bottom + 1, bottom - height + 1)
    columns = (max(0, min(left, size[1] - width)), max(0, right - width + 1))
    for y, x in product(rows, columns):
        inside = 0 <= y <= size[0] - height
        if inside and all(x >= b[2] or b[0] >= x + width or y >= b[3] or b[1] >= y + height for b in taken):
            return x, y, x + width, y + height
    return None
