"""Images of a detector's report: the worst images, and crops of false detections and missed objects."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from darkroom.callbacks.plotting.style import ERROR_COLOUR, class_palette
from darkroom.report.gallery import Gallery, Item
from darkroom.report.samples import (
    Box,
    Colour,
    address,
    crop,
    darken,
    draw_boxes,
    kept_samples,
    read_image,
    sample_titles,
    select,
    show,
)
from darkroom.report.tasks.detection_errors import KINDS, Errors
from darkroom.report.tasks.matching import NONE, Found, Matches, iterate_scenes
from darkroom.runtime.records.results import Results, image_path
from darkroom.runtime.records.tables import numbers

IMAGES, CROPS = "images", "crop-images"
_MISSED: Colour = (255, 255, 255)
_RIGHT: Colour = (86, 180, 233)
_EACH = 16  # crops of each kind
_CROP = 128  # pixels of the longer side of a crop


@dataclass(frozen=True)
class Shot:
    """Results of a detector at a score threshold.

    Args:
        results: of the test.
        found: detections and objects.
        errors: kinds of errors.
        matches: of detections and objects.
        threshold: detections with a lower score are not shown.
        truth_of: true label of each detection, see ``matching.confusion``.
        seen_as: detected label of each object.
    """

    results: Results
    found: Found
    errors: Errors
    matches: Matches
    threshold: float
    truth_of: np.ndarray
    seen_as: np.ndarray

    @cached_property
    def false(self) -> np.ndarray:
        """Mask of the shown false detections, bool (M,)."""
        wrong = (self.matches.object == NONE) & ~self.matches.ignored
        return wrong & (self.found.detections.scores >= self.threshold)

    @cached_property
    def missed(self) -> np.ndarray:
        """Mask of the objects that no shown detection of their class found, bool (N,)."""
        seen = np.zeros(len(self.found.objects.label), dtype=bool)
        shown = (self.matches.object != NONE) & (self.found.detections.scores >= self.threshold)
        seen[self.matches.object[shown]] = True
        return ~seen & ~self.found.objects.ignored

    @cached_property
    def false_by_sample(self) -> Counter[int]:
        """Number of false detections of each sample."""
        return Counter(self.found.detections.sample[self.false].tolist())

    @cached_property
    def missed_by_sample(self) -> Counter[int]:
        """Number of missed objects of each sample."""
        return Counter(self.found.objects.sample[self.missed].tolist())

    @cached_property
    def sizes(self) -> dict[int, tuple[float, float]]:
        """Width and height of each sample, in the pixels of boxes."""
        table = self.results.tables["samples"]
        columns = (numbers(table[name]).tolist() for name in ("sample", "width", "height"))
        return {int(sample): (width, height) for sample, width, height in zip(*columns, strict=True)}

    @cached_property
    def titles(self) -> dict[int, str]:
        """Title of each sample."""
        samples = numbers(self.results.tables["samples"]["sample"]).astype(int).tolist()
        return dict(zip(samples, sample_titles(self.results), strict=True))

    def read(self, sample: int, side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the image of a sample, and the factors (4,) from the pixels of boxes to those of the image."""
        image = read_image(image_path(self.results.folder, sample), side)
        width, height = self.sizes[sample]
        return image, np.array([image.shape[1] / max(1, width), image.shape[0] / max(1, height)] * 2)

    def name(self, label: int) -> str:
        """Return the name of a label."""
        return self.found.class_names[label - 1]


def _colour(label: int) -> Colour:
    red, green, blue = class_palette(255)[1 + (label - 1) % 254].tolist()
    return red, green, blue


def image_gallery(shot: Shot) -> Gallery:
    """Return the images with most errors, and some for every confusion, class and kind of error."""
    found, kept = shot.found, kept_samples(shot.results)
    scenes = {sample: scene for sample, scene in iterate_scenes(found) if sample in kept}
    order = sorted(scenes, key=lambda sample: (-shot.false_by_sample[sample] - shot.missed_by_sample[sample], sample))
    keys: dict[int, list[str]] = {}
    for sample in order:
        d, o = scenes[sample].detections, scenes[sample].objects
        words = {f"t{label}" for label in found.objects.label[o].tolist()}
        pairs = zip(shot.truth_of[d].tolist(), found.detections.label[d].tolist(), strict=True)
        words |= {f"t{truth}-p{label}" for truth, label in pairs if truth != NONE}
        lost = found.objects.label[o][shot.seen_as[o] == 0]
        words |= {f"t{label}-p0" for label in lost.tolist()}
        words |= set(shot.errors.kind[d][shot.false[d]].tolist())
        words |= {"missed"} if shot.missed[o].any() else set()
        keys[sample] = sorted(words)
    gallery = Gallery(IMAGES, {kind: kind for kind in KINDS})
    for sample in select(keys):
        image, factors = shot.read(sample, 256)
        d, o = scenes[sample].detections, scenes[sample].objects
        truths = [
            Box(found.objects.boxes[i] * factors, _colour(label), shot.name(label), bool(found.objects.ignored[i]))
            for i, label in zip(range(o.start, o.stop), found.objects.label[o].tolist(), strict=True)
        ]
        images = [
            show(draw_boxes(image, truths), "truth"),
            show(draw_boxes(darken(image), _mistakes(shot, d, o, factors)), "detections"),
        ]
        text = f"{shot.false_by_sample[sample]} false, {shot.missed_by_sample[sample]} missed of {o.stop - o.start}"
        gallery.items.append(
            Item(shot.titles[sample], text, images, frozenset(keys[sample]), address(shot.results, sample))
        )
    return gallery


def _mistakes(shot: Shot, d: slice, o: slice, factors: np.ndarray) -> list[Box]:
    """Return false detections in red, missed objects in dashed white, and right detections in blue."""
    found = shot.found
    boxes: list[Box] = []
    for i in range(d.start, d.stop):
        if found.detections.scores[i] >= shot.threshold:
            label = int(found.detections.label[i])
            colour = ERROR_COLOUR if shot.false[i] else _RIGHT
            text = f"{shot.name(label)} {found.detections.scores[i]:.2f}" if shot.false[i] else ""
            boxes.append(Box(found.detections.boxes[i] * factors, colour, text))
    for i in range(o.start, o.stop):
        if shot.missed[i]:
            text = shot.name(int(found.objects.label[i]))
            boxes.append(Box(found.objects.boxes[i] * factors, _MISSED, text, True))
    return sorted(boxes, key=lambda box: box.colour not in (ERROR_COLOUR, _MISSED))


def crop_gallery(shot: Shot) -> Gallery:
    """Return crops of false detections, highest score first, and of missed objects, largest first."""
    found, kept = shot.found, kept_samples(shot.results)
    gallery = Gallery(CROPS, {kind: kind for kind in KINDS})
    for kind in KINDS:
        sample = found.objects.sample if kind == "missed" else found.detections.sample
        boxes = found.objects.boxes if kind == "missed" else found.detections.boxes
        if kind == "missed":
            rows = np.flatnonzero(shot.errors.missed)
            rows = rows[np.argsort(-np.prod(boxes[rows, 2:] - boxes[rows, :2], 1), kind="stable")]
        else:
            rows = np.flatnonzero(shot.false & (shot.errors.kind == kind))
            rows = rows[np.argsort(-found.detections.scores[rows], kind="stable")]
        for row in [row for row in rows.tolist() if int(sample[row]) in kept][:_EACH]:
            gallery.items.append(_crop_item(shot, kind, row, int(sample[row]), boxes[row]))
    return gallery


def _crop_item(shot: Shot, kind: str, row: int, sample: int, corners: np.ndarray) -> Item:
    found = shot.found
    image, factors = shot.read(sample)
    corners = corners * factors
    part, (left, top) = crop(image, corners)
    shift = np.array([left, top, left, top])
    if kind == "missed":
        label = int(found.objects.label[row])
        boxes, text = [Box(corners - shift, _MISSED, "", True)], f"{shot.name(label)}, missed"
    else:
        label, about = int(found.detections.label[row]), int(shot.errors.object[row])
        boxes = [Box(corners - shift, ERROR_COLOUR)]
        text = f"{shot.name(label)} {found.detections.scores[row]:.2f}, {kind}"
        if about != NONE:
            boxes.append(Box(found.objects.boxes[about] * factors - shift, _MISSED, "", True))
            text += f", truth {shot.name(int(found.objects.label[about]))}"
    scaled = _enlarge(part, boxes)
    keys = frozenset({kind, f"t{label}"})
    return Item(shot.titles[sample], text, [show(scaled)], keys, address(shot.results, sample))


def _enlarge(part: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """Draw boxes over a crop of about 128 pixels: small ones are enlarged, large ones reduced."""
    step = max(1, max(part.shape[:2]) // (2 * _CROP))
    reduced = [Box(np.asarray(box.corners) / step, box.colour, box.text, box.dashed) for box in boxes]
    return draw_boxes(np.ascontiguousarray(part[::step, ::step]), reduced, _CROP)
