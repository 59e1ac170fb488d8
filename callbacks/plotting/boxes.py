"""Boxes and masks of objects over images. Pure functions.

Objects are targets or detections, one dict per image: ``boxes`` float (N, 4), xyxy in its pixels; ``labels`` int (N,)
from 1; optional ``scores`` (N,), ``masks`` bool (N, H, W), ``difficult`` and ``iscrowd`` bool (N,), and ``tracks`` int (N,)
from 1, 0 for none.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from darkroom.callbacks.plotting.images import darken, palette
from darkroom.callbacks.plotting.style import ERROR_COLOUR, load_font
from darkroom.callbacks.plotting.vector.items import Border, Colour, Marked, Region, Tag
from darkroom.callbacks.plotting.vector.marks import paint

Rectangle = tuple[int, int, int, int]
_FALSE, _MISSED = ERROR_COLOUR, (255, 255, 255)
_DARK, _LIGHT = (20, 20, 24), (255, 255, 255)
_READABLE = 256  # pixels of the longer side that lines and names need


def class_index(label: int) -> int:
    """Return the index of a label's colour in the palette; after 254 classes the colours repeat."""
    return 1 + (label - 1) % 254


def class_colour(label: int) -> Colour:
    """Return the colour of a label."""
    red, green, blue = palette(255)[class_index(label)].tolist()
    return red, green, blue


def filter_by_score(found: Mapping[str, Tensor], score_threshold: float, most: int | None = None) -> dict[str, Tensor]:
    """Select the detections with at least this score, best first, at most ``most`` of them; on the CPU."""
    order = found["scores"].argsort(descending=True, stable=True)
    best = order[found["scores"][order] >= score_threshold][:most]
    return {name: value[best].cpu() for name, value in found.items()}


def captions(objects: Mapping[str, Tensor], class_names: Sequence[str]) -> list[str]:
    """Return the text of each object: its class, the number of its track, and, of a detection, its score."""
    names = [class_names[label - 1] for label in objects["labels"].tolist()]
    if "tracks" in objects:
        tracks = objects["tracks"].tolist()
        names = [f"{name} #{track}".lstrip() if track else name for name, track in zip(names, tracks, strict=True)]
    if "scores" not in objects:
        return names
    return [f"{name} {score:.2f}".lstrip() for name, score in zip(names, objects["scores"].tolist(), strict=True)]


def find_ambiguous(objects: Mapping[str, Tensor]) -> Tensor:
    """Return a mask, bool (N,), of the objects that count neither as found nor as missed: difficult ones and crowds."""
    neither = torch.zeros(len(objects["labels"]), dtype=torch.bool)
    return neither | objects.get("difficult", neither) | objects.get("iscrowd", neither)


def find_mistakes(found: Mapping[str, Tensor], truth: Mapping[str, Tensor], iou: float = 0.5) -> tuple[Tensor, Tensor]:
    """Return masks of the false detections, bool (M,), and of the missed objects, bool (N,).

    The matching is COCO's: in descending order of score, a detection takes the free object of its class that it overlaps
    most. Detections that match an ambiguous object, or are inside a crowd, are excluded, and so are ambiguous objects.
    """
    ambiguous = find_ambiguous(truth)
    false, missed = torch.ones(len(found["labels"]), dtype=torch.bool), ~ambiguous
    if not len(false) or not len(missed):
        return false, missed
    overlap = box_iou(found["boxes"], truth["boxes"])
    if "iscrowd" in truth:  # for a crowd, the fraction of the detection inside it
        area = box_area(found["boxes"])[:, None]
        common = overlap * (area + box_area(truth["boxes"])) / (1 + overlap)
        overlap = torch.where(truth["iscrowd"], common / area, overlap)
    matches = (overlap >= iou) & (found["labels"][:, None] == truth["labels"])
    for index in found["scores"].argsort(descending=True, stable=True).tolist():
        free = matches[index] & missed
        if free.any():
            missed[torch.where(free, overlap[index], 0).argmax()] = False
        false[index] = not (free | matches[index] & ambiguous).any()
    return false, missed


def draw_boxes(image: Tensor, objects: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
    """Draw objects over an image as pixels, uint8 (3, H, W); see ``mark_boxes``."""
    return paint(mark_boxes(image, objects, class_names))


def mark_boxes(
    image: Tensor, objects: Mapping[str, Tensor], class_names: Sequence[str], size: tuple[int, int] | None = None
) -> Marked:
    """Mark objects in their classes' colours: box, name, and score and mask if they have any; ambiguous ones are dashed.

    The first objects are on top. A name that would cover another one, or the center of an object, is omitted. A single
    class is not named.

    Args:
        image: uint8 (3, H, W).
        objects: see the docstring of this module; on the CPU.
        class_names: the name of label i is ``class_names[i - 1]``.
        size: height and width at which the image is shown; None: those of the image, times a whole number if it is small.
    """
    labels = objects["labels"].tolist()
    colours = [class_colour(label) for label in labels]
    return _mark(image, objects, colours, captions(objects, _names_to_write(class_names)), size)


def mark_mistakes(
    image: Tensor,
    found: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    class_names: Sequence[str],
    size: tuple[int, int] | None = None,
) -> Marked:
    """Mark false detections in red and missed objects in dashed white, over a darkened image.

    Args as in ``mark_boxes``; ``found`` are the detections and ``truth`` the target.
    """
    false, missed = find_mistakes(found, truth)
    wrong = {name: found[name][false] for name in ("boxes", "labels", "scores")}
    absent = {name: truth[name][missed] for name in ("boxes", "labels")}
    written = _names_to_write(class_names)
    names = captions(wrong, written) + [name and f"missed {name}" for name in captions(absent, written)]
    colours = [_FALSE] * len(wrong["labels"]) + [_MISSED] * len(absent["labels"])
    objects = {name: torch.cat([wrong[name], absent[name]]) for name in absent}
    objects["difficult"] = torch.arange(len(names)) >= len(wrong["labels"])
    return _mark(darken(image), objects, colours, names, size)


def _names_to_write(class_names: Sequence[str]) -> Sequence[str]:
    return class_names if len(class_names) > 1 else ("",)


def _mark(
    image: Tensor,
    objects: Mapping[str, Tensor],
    colours: Sequence[Colour],
    names: Sequence[str],
    size: tuple[int, int] | None,
) -> Marked:
    height, width = image.shape[1:]
    times = -(-_READABLE // max(height, width))
    size = size or (height * times, width * times)
    line = max(2, round(max(size) / 250))
    regions: list[Region] = []
    if "masks" in objects:  # their outlines show more than the boxes
        regions = [Region(mask, colour, line // 2) for mask, colour in zip(objects["masks"], colours, strict=True)]
        line = line // 2
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    rectangles = [_pixels(box, size) for box in (objects["boxes"].float() * scale).round().int().tolist()]
    dashes = [4 * line * flag for flag in find_ambiguous(objects).tolist()]
    borders = [
        Border(*rectangle, colour, line, dash)
        for rectangle, colour, dash in zip(rectangles, colours, dashes, strict=True)
    ]
    tags = _tags(rectangles, colours, names, max(12, round(max(size) / 40)), size)
    return Marked(image, [*reversed(regions), *reversed(borders), *tags], size)


def _pixels(box: Sequence[int], size: tuple[int, int]) -> Rectangle:
    """Return the first and last pixels (left, top, right, bottom) of a box, within the image."""
    left, top = (min(max(edge, 0), side - 1) for edge, side in zip(box[:2], size[::-1], strict=True))
    right, bottom = (min(edge, side) - 1 for edge, side in zip(box[2:], size[::-1], strict=True))
    return left, top, max(left, right), max(top, bottom)


def _tags(
    rectangles: Sequence[Rectangle],
    colours: Sequence[Colour],
    names: Sequence[str],
    letters: int,
    size: tuple[int, int],
) -> list[Tag]:
    """Place names on tags in their colours, dark on light and light on dark; no tag covers another one or the center of a
    rectangle. ``letters`` is the size of the font."""
    font, tags = load_font(letters), []
    centers = [((left + right) // 2, (top + bottom) // 2) for left, top, right, bottom in rectangles]
    taken = [(x, y, x + 1, y + 1) for x, y in centers]
    for rectangle, colour, name in zip(rectangles, colours, names, strict=True):
        place = (
            _spot(rectangle, round(font.getlength(name)) + 6, round(font.size * 1.25), size, taken) if name else None
        )
        if place is not None:
            taken.append(place)
            brightness = sum(channel * weight for channel, weight in zip(colour, (0.299, 0.587, 0.114), strict=True))
            tags.append(Tag(*place, colour, name, letters, _DARK if brightness > 140 else _LIGHT))
    return tags


def _spot(
    rectangle: Rectangle, width: int, height: int, size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """Find a free place for a tag beside its rectangle or in it, within the image; None if there is none."""
    left, top, right, bottom = rectangle
    rows = (top - height, top, bottom + 1, bottom - height + 1)
    columns = (max(0, min(left, size[1] - width)), max(0, right - width + 1))
    for y, x in product(rows, columns):
        inside = 0 <= y <= size[0] - height
        if inside and all(x >= b[2] or b[0] >= x + width or y >= b[3] or b[1] >= y + height for b in taken):
            return x, y, x + width, y + height
    return None
