"""ShapesCaptions: Shapes, the synthetic dataset, for text-to-image models."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from darkroom.datamodules.base import LabelledSplit, Split
from darkroom.datamodules.datasets import WholeBatchDataset
from darkroom.datamodules.images.base import LabelledImages
from darkroom.datamodules.io.hash_random import uniform
from darkroom.datamodules.shapes.scenes import COLOURS, KINDS, SIZES, Scenes, check_side, phrase
from darkroom.errors import UsageError
from darkroom.protocols import SizedDataset

Form = Literal["object", "place", "relation", "count"]
CaptionSplit = Literal["train", "val", "test", "judge"]

FORMS = ("object", "place", "relation", "count")
_NUMBERS = ("one", "two", "three", "four")
_VALUES: dict[str, Sequence[str]] = {
    "count": _NUMBERS,
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "size": SIZES,
    "kind_2": KINDS,
    "colour_2": tuple(COLOURS),
    "size_2": SIZES,
    "column": ("left", "middle", "right"),
    "row": ("top", "middle", "bottom"),
    "axis": ("side by side", "one above the other"),
}
ATTRIBUTES = {name: len(values) for name, values in _VALUES.items()}
_FIRST = [list(ATTRIBUTES).index(name) for name in ("kind", "colour", "size")]
_SECOND = [list(ATTRIBUTES).index(f"{name}_2") for name in ("kind", "colour", "size")]
_RELATION = FORMS.index("relation")
HELD_OUT = (np.arange(len(COLOURS)) + 3) % len(KINDS)  # for each colour, the kind that never has it in training

_SPLITS = ("train", "val", "test", "judge")
_SLOTS = 4
_LARGEST = {"object": 2.0, "place": 1.5}  # zoom that leaves room for the positions
# Radii as fractions of the side. Margins separate the sizes, so that exactly one word is correct.
_ALONE = np.array([[0.17, 0.2], [0.27, 0.305], [0.385, 0.43]])  # of a single object at zoom 2: small, medium, large
_BESIDE = np.array([[0.125, 0.14], [0.175, 0.19], [0.225, 0.24]])  # of two
_AMONG = np.array([[0.13, 0.17]] * 3)  # of up to four
_GAP = 0.02  # between two objects, at least
_SLANT = 0.6  # smaller over greater distance of two objects along the axes, at most
_PLACES = (
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the middle", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)
_RELATIONS = (("left of", "right of"), ("above", "below"))


class DescribedScenes(NamedTuple):
    """B scenes with their captions and attributes.

    Args:
        scenes: slot 0 of two objects is the left or upper one.
        captions: B sentences.
        exchanged: the captions with both objects exchanged, wrong for the image; empty for one object, or two alike.
        form: int64 (B,), index of the form in FORMS.
        truth: int64 (B, A), the attributes of the image, -1 where they have no meaning.
        stated: attributes as ``truth``, and -1 also where the caption does not mention them.
        held_out: bool (B,), True if an object has a colour and a kind that training never shows together.
    """

    scenes: Scenes
    captions: list[str]
    exchanged: list[str]
    form: np.ndarray
    truth: np.ndarray
    stated: np.ndarray
    held_out: np.ndarray


class CaptionedScenes(WholeBatchDataset):
    """Scenes and a sentence for each: ``{"image": uint8 (3, H, W), "caption": str, "attributes": int64 (A,), "held_out":
    bool ()}``. A function of (seed, split, index); lengths are fractions of the side, so a scene is the same at any.

    Args:
        seed, split, length: of the scenes.
        forms: forms of the sentences; each scene has one of them at random.
        side: in pixels.
        zoom: zoom of single objects.
        plain, upright: see ``SceneGenerator``.
        held_out: ``HELD_OUT`` never occurs in training, and is marked in the other splits.
        whole_truth: ``attributes`` are all attributes of the image, not only those that the caption mentions.
    """

    def __init__(
        self,
        seed: int,
        split: CaptionSplit,
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
        described = self.describe(indices)
        batch = {
            "image": described.scenes.images,
            "attributes": described.truth if self.whole_truth else described.stated,
            "held_out": described.held_out,
            "form": described.form,
        }
        captions = {"caption": described.captions}
        if _RELATION in self.forms:
            captions["exchanged"] = described.exchanged
        return {key: torch.from_numpy(value) for key, value in batch.items()} | captions

    def describe(self, indices: Sequence[int]) -> DescribedScenes:
        """Return the scenes with these indices."""
        random = uniform([self.seed, _SPLITS.index(self.split), np.asarray(indices, np.int64)], 18 + _SLOTS * 12)
        ground, slots = random[:, :18], random[:, 18:].reshape(len(random), _SLOTS, -1)
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
        with_size, reverse = slots[..., 11] < 0.5, ground[:, 17] < 0.5
        truth = _attributes(form, scenes, column, row, axis)
        stated = _stated_attributes(truth, with_size)
        captions = [
            _CAPTIONS[f](truth[scene], stated[scene], bool(reverse[scene])) for scene, f in enumerate(form.tolist())
        ]
        exchanged = [
            _exchanged_caption(truth[scene], stated[scene], bool(reverse[scene])) if f == _RELATION else ""
            for scene, f in enumerate(form.tolist())
        ]
        held_out = ((kind == HELD_OUT[colour]) & present).any(1) & self.held_out
        return DescribedScenes(scenes, captions, exchanged, form, truth, stated, held_out)


class ShapesCaptions(LabelledImages):
    """Shapes, the synthetic dataset, for text-to-image models: images, captions, and the attributes that captions state.

    Forms of captions:

    - ``object``: "a red circle", half of them with a size, "a small red circle"; without a size, any is correct;
    - ``place``: also the place in the image, "a red circle in the upper left", unambiguous by a margin;
    - ``relation``: two objects, "a small red circle left of a blue square", in either order; they are beside or above
      each other, never on a diagonal;
    - ``count``: two to four objects of one kind and colour, "three green stars".

    Batch:

    - ``caption``;
    - ``exchanged``, if "relation" is among the forms: the caption with its two objects exchanged; empty for other forms,
      and for two objects that are alike;
    - ``attributes`` int64 (B, A), named by ``attribute_names``, -1 where the caption does not state one. The first of two
      objects is the left or upper one, whatever their order in the caption;
    - ``held_out`` bool (B,), True if an object has a colour and a kind that training never shows together;
    - ``form`` int64 (B,), an index into ``form_names``.

    The scenes are the same at every ``side``.

    Args:
        train_size, val_size, test_size: images per split.
        side: image side in pixels.
        forms: forms of the captions; each image has one of them at random.
        held_out: one kind of each colour never occurs in training (``HELD_OUT``: the red star, the orange cross, the
            yellow circle, ...); in validation and test it is as frequent as the others.
        background: "plain": one uniform dark colour in all images; "textured": as in ``ShapesSegmentation``.
        upright: objects are not rotated; False: any angle.
        zoom: size of a single object, from 1 to 2 (large ones nearly fill the image), or to 1.5 with the form "place";
            None: the largest. Several objects are as large as they fit.
        mean, std: see ``LabelledImages``. Images are not augmented; a flip would make captions wrong.
    """

    class_names: Sequence[str] = ()
    attribute_names = tuple(ATTRIBUTES)
    attribute_sizes = tuple(ATTRIBUTES.values())
    attribute_values = tuple(_VALUES.values())
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
        check_side(side)
        if not forms or len(set(forms)) < len(forms) or not set(forms) <= set(FORMS):
            raise UsageError(f"data.forms must be distinct and among {', '.join(FORMS)}, got {forms}")
        largest = min(_LARGEST.get(form, 2.0) for form in forms)
        if zoom is not None and not 1 <= zoom <= largest:
            raise UsageError(f"data.zoom must be from 1 to {largest:g} with forms {forms}, got {zoom}")
        self.sizes: dict[LabelledSplit, int] = {"train": train_size, "val": val_size, "test": test_size}
        self.side, self.forms, self.held_out, self.zoom = side, tuple(forms), held_out, zoom or largest
        self.plain, self.upright = background == "plain", upright
        self.image_shape = 3, side, side

    @property
    def words(self) -> list[str]:
        """Words of all captions, sorted."""
        objects = {*SIZES, *COLOURS, *KINDS, "a", "an"}
        words = {
            "object": objects,
            "place": objects.union(*(place.split() for row in _PLACES for place in row)),
            "relation": objects.union(*(relation.split() for pair in _RELATIONS for relation in pair)),
            "count": {*COLOURS, *map(_plural, KINDS), *_NUMBERS[1:]},
        }
        return sorted(set().union(*(words[form] for form in self.forms)))

    @property
    def held_out_objects(self) -> dict[str, list[dict[str, int]]]:
        """Kind and colour of the objects that training never shows, as the first and the second of a caption, by name."""
        pairs = enumerate(zip(COLOURS, HELD_OUT.tolist(), strict=True)) if self.held_out else ()
        return {
            f"{name} {KINDS[kind]}": [{f"kind{end}": kind, f"colour{end}": colour} for end in ("", "_2")]
            for colour, (name, kind) in pairs
        }

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``CaptionedScenes`` of a split; prediction uses the test split."""
        split = "test" if split == "predict" else split
        return self._scenes(split, self.sizes[split], self.forms, held_out=self.held_out)

    def judging_dataset(self, length: int) -> CaptionedScenes:
        """Return scenes to train a judge on, outside of all splits, with all colours, kinds and ``attributes``.

        All forms are among them: a judge must distinguish one object from two even if captions have one object.
        """
        return self._scenes("judge", length, self.forms * 5 + ("object", "relation", "count"), whole_truth=True)

    def _scenes(self, split: CaptionSplit, length: int, forms: Sequence[Form], **options: bool) -> CaptionedScenes:
        return CaptionedScenes(
            seed=self.seed,
            split=split,
            length=length,
            forms=forms,
            side=self.side,
            zoom=self.zoom,
            plain=self.plain,
            upright=self.upright,
            **options,
        )


# --- positions of objects ---------------------------------------------------------------------------------------------
# Lengths are fractions of the side, u are numbers in [0, 1), and arrays are (B, slots), unless stated otherwise.


def _pick(u: np.ndarray, count: int) -> np.ndarray:
    """Map numbers in [0, 1) to integers from 0 to count - 1."""
    return (u * count).astype(np.int64)


def _positions(
    form: np.ndarray, radius: np.ndarray, u: np.ndarray, column: np.ndarray, row: np.ndarray, axis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the centres x, y of the objects of scenes of all forms."""
    anywhere = [_interpolate(radius, 1 - radius, u[..., a]) for a in (0, 1)]
    placed = [_in_third(radius, third, u[..., a]) for a, third in enumerate((column, row))]
    along, across = _side_by_side(radius, u)
    upright = axis[:, None] == 1
    beside = [np.where(upright, across, along), np.where(upright, along, across)]
    quarter = u[..., 2].argsort(1)
    spread = [
        q / 2 + _interpolate(radius + _GAP / 2, 0.5 - radius - _GAP / 2, u[..., a])
        for a, q in enumerate((quarter % 2, quarter // 2))
    ]
    x, y = (np.choose(form[:, None], options) for options in zip(anywhere, placed, beside, spread, strict=True))
    return x, y


def _interpolate(low: np.ndarray, high: np.ndarray, u: np.ndarray) -> np.ndarray:
    return low + (high - low) * u


def _in_third(radius: np.ndarray, third: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Compute coordinates in the first, middle or last third (third: (B,), 0 to 2), with margins between them."""
    low = np.choose(third[:, None], [radius, 0.47, 0.6])
    high = np.choose(third[:, None], [0.4, 0.53, 1 - radius])
    return _interpolate(low, high, u)


def _side_by_side(radius: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute coordinates along and across the axis on which the first two objects follow each other."""
    first, second = radius[:, 0], radius[:, 1]
    free = 1 - 2 * (first + second) - _GAP
    along, across = np.zeros_like(radius), np.zeros_like(radius)
    along[:, 0] = first + free * u[:, :2, 0].min(1)
    along[:, 1] = 1 - second - free * (1 - u[:, :2, 0].max(1))
    reach = _SLANT * (along[:, 1] - along[:, 0])
    across[:, 0] = _interpolate(first, 1 - first, u[:, 0, 1])
    low, high = np.maximum(second, across[:, 0] - reach), np.minimum(1 - second, across[:, 0] + reach)
    across[:, 1] = _interpolate(low, high, u[:, 1, 1])
    return along, across


# --- attributes and captions ------------------------------------------------------------------------------------------


def _attributes(form: np.ndarray, scenes: Scenes, column: np.ndarray, row: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Return all attributes of the images: int64 (B, A), -1 where one has no meaning."""
    places, relations, counts = (form == FORMS.index(name) for name in ("place", "relation", "count"))
    truth = {"count": scenes.present.sum(1) - 1, "kind": scenes.kind[:, 0], "colour": scenes.colour[:, 0]}
    truth["size"] = np.where(counts, -1, scenes.size[:, 0])
    for name, value in {"kind": scenes.kind, "colour": scenes.colour, "size": scenes.size}.items():
        truth[f"{name}_2"] = np.where(relations, value[:, 1], -1)
    truth |= {"column": np.where(places, column, -1), "row": np.where(places, row, -1)}
    truth["axis"] = np.where(relations, axis, -1)
    return np.stack([truth[name] for name in ATTRIBUTES], 1).astype(np.int64)


def _stated_attributes(truth: np.ndarray, with_size: np.ndarray) -> np.ndarray:
    """Return the attributes that captions state. "On the left" does not state the row, nor "at the top" the column."""
    stated = dict(zip(ATTRIBUTES, truth.T.copy(), strict=True))
    for slot, name in enumerate(("size", "size_2")):
        stated[name][~with_size[:, slot]] = -1
    middle = {name: stated[name] == 1 for name in ("column", "row")}
    for name, other in (("column", "row"), ("row", "column")):
        stated[name][middle[name] & ~middle[other]] = -1
    return np.stack(list(stated.values()), 1)


def _object(stated: dict[str, int], second: str = "") -> str:
    kind, colour, size = (stated[f"{name}{second}"] for name in ("kind", "colour", "size"))
    return phrase(KINDS[kind], list(COLOURS)[colour], None if size < 0 else SIZES[size])


def _plural(kind: str) -> str:
    return kind + ("es" if kind.endswith("s") else "s")


def _by_name(attributes: np.ndarray) -> dict[str, int]:
    return dict(zip(ATTRIBUTES, attributes.tolist(), strict=True))


def _object_caption(truth: np.ndarray, stated: np.ndarray, reverse: bool) -> str:
    return _object(_by_name(stated))


def _place_caption(truth: np.ndarray, stated: np.ndarray, reverse: bool) -> str:
    places = _by_name(truth)
    return f"{_object(_by_name(stated))} {_PLACES[places['row']][places['column']]}"


def _relation_caption(truth: np.ndarray, stated: np.ndarray, reverse: bool) -> str:
    names = _by_name(stated)
    objects = [_object(names), _object(names, "_2")]
    first, second = reversed(objects) if reverse else objects
    return f"{first} {_RELATIONS[names['axis']][reverse]} {second}"


def _exchanged_caption(truth: np.ndarray, stated: np.ndarray, reverse: bool) -> str:
    """Return the caption with its two objects exchanged; empty if they are alike."""
    exchanged = stated.copy()
    exchanged[_FIRST + _SECOND] = stated[_SECOND + _FIRST]
    return "" if (exchanged == stated).all() else _relation_caption(truth, exchanged, reverse)


def _count_caption(truth: np.ndarray, stated: np.ndarray, reverse: bool) -> str:
    names = _by_name(stated)
    return f"{_NUMBERS[names['count']]} {list(COLOURS)[names['colour']]} {_plural(KINDS[names['kind']])}"


_CAPTIONS = (_object_caption, _place_caption, _relation_caption, _count_caption)  # in the order of FORMS
