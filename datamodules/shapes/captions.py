"""ShapesCaptions: the embedded world for models that draw what a sentence says."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from darkroom.datamodules.images.base import LabelledImages
from darkroom.datamodules.io.hash_random import uniform
from darkroom.datamodules.shapes.scenes import COLOURS, KINDS, SIZES, Scenes, phrase
from darkroom.errors import UsageError

Form = Literal["object", "place", "relation", "count"]
Split = Literal["train", "val", "test", "judge"]

FORMS = ("object", "place", "relation", "count")
ATTRIBUTES = {
    "count": 4,  # objects, less one
    "kind": len(KINDS),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "kind_2": len(KINDS),
    "colour_2": len(COLOURS),
    "size_2": len(SIZES),
    "column": 3,
    "row": 3,
    "axis": 2,
}
HELD_OUT = (np.arange(len(COLOURS)) + 3) % len(KINDS)  # for each colour the kind that it never has in training

_SPLITS = ("train", "val", "test", "judge")
_SLOTS = 4
_LARGEST = {"object": 2.0, "place": 1.5}  # zoom that leaves room for the positions
# Radii as parts of the side. Sizes are told apart by a margin, so that one word is right and the others are wrong.
_ALONE = np.array([[0.17, 0.2], [0.27, 0.305], [0.385, 0.43]])  # of a lone object at zoom 2: small, medium, large
_BESIDE = np.array([[0.125, 0.14], [0.175, 0.19], [0.225, 0.24]])  # of two
_AMONG = np.array([[0.13, 0.17]] * 3)  # of up to four
_GAP = 0.02  # between two objects, at least
_SLANT = 0.6  # the lesser distance of two objects over the greater one, at most
_PLACES = (
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the middle", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)
_RELATIONS = (("left of", "right of"), ("above", "below"))
_NUMBERS = ("one", "two", "three", "four")


class Told(NamedTuple):
    """B scenes and what is said of them.

    ``scenes``: slot 0 of two objects is the left or upper one; ``captions``: B sentences; ``form``: int64 (B,), their
    numbers in FORMS; ``truth``: int64 (B, A), the attributes that the picture shows, -1 where they have no meaning;
    ``said``: the same, -1 also where the caption says nothing of it; ``held_out``: bool (B,), whether an object has a
    colour and a kind that training never shows together.
    """

    scenes: Scenes
    captions: list[str]
    form: np.ndarray
    truth: np.ndarray
    said: np.ndarray
    held_out: np.ndarray


class CaptionedScenes(Dataset):
    """Scenes and a sentence for each: ``{"image": uint8 (3, H, W), "caption": str, "attributes": int64 (A,), "held_out":
    bool ()}``. A function of (seed, split, index); lengths are drawn as parts of the side, so a scene is the same at any.

    Args:
        seed, split, length: which scenes.
        forms: of the sentences; each scene draws one.
        side: in pixels.
        zoom: of lone objects.
        plain, upright: see ``World``.
        held_out: whether ``HELD_OUT`` never occurs in training, and is marked elsewhere.
        whole_truth: ``attributes`` are all that the picture shows, not only what the caption says.
    """

    def __init__(
        self,
        seed: int,
        split: Split,
        length: int,
        forms: Sequence[Form],
        side: int,
        zoom: float,
        plain: bool = True,
        upright: bool = True,
        held_out: bool = False,
        whole_truth: bool = False,
    ) -> None:
        self.seed, self.split, self.length, self.side = seed, split, length, side
        self.forms = np.array([FORMS.index(form) for form in forms])
        self.radii = np.stack([_ALONE * zoom / 2, _ALONE * zoom / 2, _BESIDE, _AMONG])
        self.plain, self.upright, self.held_out, self.whole_truth = plain, upright, held_out, whole_truth

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A whole batch at once: many times faster than one by one."""
        told = self.describe(indices)
        attributes = told.truth if self.whole_truth else told.said
        batch = {"image": told.scenes.images, "attributes": attributes, "held_out": told.held_out}
        batch["form"] = told.form
        return {key: torch.from_numpy(value) for key, value in batch.items()} | {"caption": told.captions}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)  # ends a for loop over the data set
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def describe(self, indices: Sequence[int]) -> Told:
        """The scenes with these indices."""
        draws = uniform([self.seed, _SPLITS.index(self.split), np.asarray(indices, np.int64)], 18 + _SLOTS * 12)
        ground, slots = draws[:, :18], draws[:, 18:].reshape(len(draws), _SLOTS, -1)
        form = self.forms[_pick(ground[:, 12], len(self.forms))]
        count = np.choose(form, [1, 1, 2, 2 + _pick(ground[:, 13], 3)])
        colour, size = _pick(slots[..., 1], len(COLOURS)), _pick(slots[..., 2], len(SIZES))
        kind = _pick(slots[..., 0], len(KINDS))
        if self.held_out and self.split == "train":
            kind = (HELD_OUT[colour] + 1 + _pick(slots[..., 0], len(KINDS) - 1)) % len(KINDS)
        alike = (form == FORMS.index("count"))[:, None]
        kind, colour = (np.where(alike, value[:, :1], value) for value in (kind, colour))
        low, high = self.radii[form[:, None], size].transpose(2, 0, 1)
        radius = low + (high - low) * slots[..., 3]
        row, column, axis = _pick(ground[:, 14], 3), _pick(ground[:, 15], 3), _pick(ground[:, 16], 2)
        x, y = _positions(form, radius, slots[..., 4:7], column, row, axis)
        present = np.arange(_SLOTS) < count[:, None]
        scenes = Scenes(
            side=self.side,
            kind=kind,
            colour=colour,
            size=size,
            x=x * self.side,
            y=y * self.side,
            radius=radius * self.side,
            angle=slots[..., 7] * 2 * np.pi * (not self.upright),
            present=present,
            tint=(slots[..., 8:11] - 0.5) * 40,
            ground=ground[:, :12],
            plain=self.plain,
        )
        sized, turned = slots[..., 11] < 0.5, ground[:, 17] < 0.5
        truth = _truth(form, scenes, column, row, axis)
        said = _said(form, truth, sized)
        captions = [
            _CAPTIONS[f](truth[scene], said[scene], bool(turned[scene])) for scene, f in enumerate(form.tolist())
        ]
        held_out = ((kind == HELD_OUT[colour]) & present).any(1) & self.held_out
        return Told(scenes, captions, form, truth, said, held_out)


class ShapesCaptions(LabelledImages):
    """The embedded world for models that draw what a sentence says: pictures, captions, and what the captions ask for.

    Forms of captions:

    - ``object``: "a red circle", in half of them with its size, "a small red circle"; no word for it means any;
    - ``place``: also where in the picture, "a red circle in the upper left"; always clear by a margin;
    - ``relation``: two objects, "a small red circle left of a blue square", either of them first; they lie clearly beside
      each other or clearly one above the other, never on a diagonal;
    - ``count``: two to four objects of one kind and colour, "three green stars".

    Batch: ``caption``; ``attributes`` int64 (B, A), what the caption says, -1 where it says nothing, named by
    ``attribute_names``: of two objects the first is the left or upper one in whatever order the caption names them;
    ``held_out`` bool (B,), whether an object has a colour and a kind that training never shows together; ``form`` int64
    (B,), a number in ``form_names``. The scenes are the same at every ``side``.

    Args:
        train_size, val_size, test_size: pictures per split.
        side: image side in pixels.
        forms: of the captions; each picture draws one of them.
        held_out: of each colour one kind never occurs in training, but does in validation and test (``HELD_OUT``: the red
            star, the orange cross, the yellow circle, ...), as often as the others.
        background: "plain": one flat dark colour, the same in all; "textured": the grounds of the other embedded worlds.
        upright: objects are not turned; False: any angle.
        zoom: how large a lone object is, from 1 to 2 (the large ones nearly fill the picture), or to 1.5 where places are
            said; None: as large as that. Several objects are as large as fits.
        mean, std: see ``LabelledImages``. Nothing augments the pictures; a flip would make captions false.
    """

    class_names = ()
    attribute_names = tuple(ATTRIBUTES)
    attribute_sizes = tuple(ATTRIBUTES.values())
    form_names = FORMS

    def __init__(
        self,
        train_size: int = 16_384,
        val_size: int = 1024,
        test_size: int = 2048,
        side: int = 32,
        forms: list[Form] | None = None,
        held_out: bool = True,
        background: Literal["plain", "textured"] = "plain",
        upright: bool = True,
        zoom: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(size=side, flip=False, limit=None, **kwargs)
        forms = ["object"] if forms is None else forms
        if side < 16:
            raise UsageError(f"data.side is {side}; shapes need at least 16 pixels")
        if not forms or len(set(forms)) < len(forms) or not set(forms) <= set(FORMS):
            raise UsageError(f"data.forms is {forms}; name each form once, of {', '.join(FORMS)}")
        largest = min(_LARGEST.get(form, 2.0) for form in forms)
        if zoom is not None and not 1 <= zoom <= largest:
            raise UsageError(f"data.zoom is {zoom}; with forms {forms} it is from 1 to {largest:g}")
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.side, self.forms, self.held_out, self.zoom = side, tuple(forms), held_out, zoom or largest
        self.plain, self.upright = background == "plain", upright

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.side, self.side

    @property
    def words(self) -> list[str]:
        """Every word that a caption may have, sorted."""
        objects = {*SIZES, *COLOURS, *KINDS, "a", "an"}
        words = {
            "object": objects,
            "place": objects.union(*(place.split() for row in _PLACES for place in row)),
            "relation": objects.union(*(relation.split() for pair in _RELATIONS for relation in pair)),
            "count": {*COLOURS, *map(_plural, KINDS), *_NUMBERS[1:]},
        }
        return sorted(set().union(*(words[form] for form in self.forms)))

    def dataset(self, split: Literal["train", "val", "test", "predict"]) -> Dataset:
        split = "test" if split == "predict" else split
        return CaptionedScenes(
            self.seed,
            split,
            self.sizes[split],
            self.forms,
            self.side,
            self.zoom,
            self.plain,
            self.upright,
            self.held_out,
        )

    def judging_dataset(self, length: int) -> Dataset:
        """Scenes of no other split, for a judge to learn from: with all colours and kinds, and all that they show as
        ``attributes``. Other forms are among them: even where captions have one object, a judge must know two from one.
        """
        forms = self.forms * 5 + ("object", "relation", "count")
        return CaptionedScenes(
            self.seed, "judge", length, forms, self.side, self.zoom, self.plain, self.upright, whole_truth=True
        )


# --- where objects are ------------------------------------------------------------------------------------------------
# Lengths are parts of the side; u are numbers in [0, 1); everything is (B, slots) unless stated otherwise.


def _pick(u: np.ndarray, count: int) -> np.ndarray:
    """Numbers in [0, 1) -> whole numbers from 0 to count - 1."""
    return (u * count).astype(np.int64)


def _positions(
    form: np.ndarray, radius: np.ndarray, u: np.ndarray, column: np.ndarray, row: np.ndarray, axis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centres x, y of the objects of scenes of all forms."""
    anywhere = [_between(radius, 1 - radius, u[..., a]) for a in (0, 1)]
    placed = [_in_third(radius, third, u[..., a]) for a, third in enumerate((column, row))]
    along, across = _side_by_side(radius, u)
    upright = axis[:, None] == 1
    beside = [np.where(upright, across, along), np.where(upright, along, across)]
    quarter = u[..., 2].argsort(1)
    spread = [
        q / 2 + _between(radius + _GAP / 2, 0.5 - radius - _GAP / 2, u[..., a])
        for a, q in enumerate((quarter % 2, quarter // 2))
    ]
    return tuple(np.choose(form[:, None], options) for options in zip(anywhere, placed, beside, spread, strict=True))


def _between(low: np.ndarray, high: np.ndarray, u: np.ndarray) -> np.ndarray:
    return low + (high - low) * u


def _in_third(radius: np.ndarray, third: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Coordinates before, at or after the middle, with margins between these (third: (B,), 0 to 2)."""
    low = np.choose(third[:, None], [radius, 0.47, 0.6])
    high = np.choose(third[:, None], [0.4, 0.53, 1 - radius])
    return _between(low, high, u)


def _side_by_side(radius: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across the line on which the first two objects lie, one after the other."""
    first, second = radius[:, 0], radius[:, 1]
    free = 1 - 2 * (first + second) - _GAP
    along, across = np.zeros_like(radius), np.zeros_like(radius)
    along[:, 0] = first + free * u[:, :2, 0].min(1)
    along[:, 1] = 1 - second - free * (1 - u[:, :2, 0].max(1))
    reach = _SLANT * (along[:, 1] - along[:, 0])
    across[:, 0] = _between(first, 1 - first, u[:, 0, 1])
    low, high = np.maximum(second, across[:, 0] - reach), np.minimum(1 - second, across[:, 0] + reach)
    across[:, 1] = _between(low, high, u[:, 1, 1])
    return along, across


# --- what is said of them ---------------------------------------------------------------------------------------------


def _truth(form: np.ndarray, scenes: Scenes, column: np.ndarray, row: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """All that the pictures show: int64 (B, A), -1 where an attribute has no meaning."""
    places, relations, counts = (form == FORMS.index(name) for name in ("place", "relation", "count"))
    truth = {"count": scenes.present.sum(1) - 1, "kind": scenes.kind[:, 0], "colour": scenes.colour[:, 0]}
    truth["size"] = np.where(counts, -1, scenes.size[:, 0])
    for name in ("kind", "colour", "size"):
        truth[f"{name}_2"] = np.where(relations, getattr(scenes, name)[:, 1], -1)
    truth |= {"column": np.where(places, column, -1), "row": np.where(places, row, -1)}
    truth["axis"] = np.where(relations, axis, -1)
    return np.stack([truth[name] for name in ATTRIBUTES], 1).astype(np.int64)


def _said(form: np.ndarray, truth: np.ndarray, sized: np.ndarray) -> np.ndarray:
    """What captions say of it. "On the left" says nothing of the row, nor "at the top" of the column."""
    said = dict(zip(ATTRIBUTES, truth.T.copy(), strict=True))
    for slot, name in enumerate(("size", "size_2")):
        said[name][~sized[:, slot]] = -1
    middle = {name: said[name] == 1 for name in ("column", "row")}
    for name, other in (("column", "row"), ("row", "column")):
        said[name][middle[name] & ~middle[other]] = -1
    return np.stack(list(said.values()), 1)


def _object(said: dict[str, int], second: str = "") -> str:
    kind, colour, size = (said[f"{name}{second}"] for name in ("kind", "colour", "size"))
    return phrase(KINDS[kind], list(COLOURS)[colour], None if size < 0 else SIZES[size])


def _plural(kind: str) -> str:
    return kind + ("es" if kind.endswith("s") else "s")


def _named(attributes: np.ndarray) -> dict[str, int]:
    return dict(zip(ATTRIBUTES, attributes.tolist(), strict=True))


def _object_caption(truth: np.ndarray, said: np.ndarray, turned: bool) -> str:
    return _object(_named(said))


def _place_caption(truth: np.ndarray, said: np.ndarray, turned: bool) -> str:
    places = _named(truth)
    return f"{_object(_named(said))} {_PLACES[places['row']][places['column']]}"


def _relation_caption(truth: np.ndarray, said: np.ndarray, turned: bool) -> str:
    said = _named(said)
    objects = [_object(said), _object(said, "_2")]
    first, second = reversed(objects) if turned else objects
    return f"{first} {_RELATIONS[said['axis']][turned]} {second}"


def _count_caption(truth: np.ndarray, said: np.ndarray, turned: bool) -> str:
    said = _named(said)
    return f"{_NUMBERS[said['count']]} {list(COLOURS)[said['colour']]} {_plural(KINDS[said['kind']])}"


_CAPTIONS = (_object_caption, _place_caption, _relation_caption, _count_caption)  # in the order of FORMS
