"""Shapes, the synthetic dataset: scenes of coloured shapes with every kind of label, without a download.

A scene is a function of ``(seed, split, index)`` alone. Its parameters are hashes of these numbers, and the renderer uses
only operations that IEEE 754 rounds exactly. So every machine, worker and process renders the same bytes. One description
gives image, semantic mask, instance masks, boxes, labels, caption and latent factors; datamodules select from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from darkroom.datamodules.base import LABELLED_SPLITS, LabelledSplit
from darkroom.datamodules.io.hash_random import uniform
from darkroom.errors import UsageError

KINDS = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "medium", "large")
COLOURS = {
    "red": (222, 60, 52),
    "orange": (240, 150, 45),
    "yellow": (242, 214, 65),
    "green": (66, 176, 84),
    "cyan": (66, 194, 203),
    "blue": (66, 105, 222),
    "purple": (152, 80, 201),
    "pink": (240, 128, 178),
}
FACTORS = ("kind", "colour", "x", "y", "radius", "angle")

_PLAIN = (24, 26, 34)  # RGB of the plain background
_RADII = np.array([[0.09, 0.12], [0.13, 0.165], [0.18, 0.22]])  # small, medium, large; as fractions of the image side
_CANDIDATES = 12  # positions tried for an object before it is dropped
_APART = {True: 0.55, False: 1.05}  # centre distance over the sum of radii, at least: with and without occlusion
_MIN_VISIBLE = 4  # pixels; an object with fewer has no box


# --- signed distances -------------------------------------------------------------------------------------------------
# x, y: coordinates in units of the object's radius. Result: distance to the edge in the same unit, negative inside.
# Every shape is inside the unit circle. (Quilez, "2D distance functions".)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - np.float32(0.9)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.7)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slanted = np.float32(0.8660254) * np.abs(x) - np.float32(0.5) * y  # the two upper edges, folded onto one
    return np.maximum(slanted, y) - np.float32(0.5)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(0.92), np.minimum(x, y) - np.float32(0.3))


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute a star of five points: the plane is folded onto one tenth, where the star is a single edge."""
    cos, sin = np.float32(0.809017), np.float32(0.587785)  # 36 degrees
    x = np.abs(x)
    y = -y
    for side in (1, -1):
        fold = 2 * np.maximum(side * cos * x - sin * y, 0)
        x, y = x - fold * side * cos, y + fold * sin
    x, y = np.abs(x), y - 1
    # Edge from the tip (0, 0) to the inner corner, at .45 of the outer radius.
    ex, ey = np.float32(0.45 * 0.587785), np.float32(0.45 * 0.809017 - 1)
    along = np.clip((x * ex + y * ey) / (ex * ex + ey * ey), 0, 1)
    dx, dy = x - ex * along, y - ey * along
    return np.sqrt(dx * dx + dy * dy) * np.sign(y * ex - x * ey)


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross}


def phrase(kind: str, colour: str, size: str | None = None) -> str:
    """Name an object: "a small red circle", "an orange star"."""
    words = [colour, kind] if size is None else [size, colour, kind]
    return ("an " if words[0] == "orange" else "a ") + " ".join(words)


@cache
def _textures(side: int) -> np.ndarray:
    """Render backgrounds, float32 (6, side, side) in [-1, 1]: smooth noise at three scales, stripes, checks, grain."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    layers = []
    for layer, cell in enumerate((24, 12, 5)):
        lattice = uniform([layer, np.arange(side // cell + 2)], side // cell + 2).astype(np.float32) * 2 - 1
        iy, ix = (y // cell).astype(int), (x // cell).astype(int)
        fy, fx = y / cell - iy, x / cell - ix
        fy, fx = fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
        top = lattice[iy, ix] * (1 - fx) + lattice[iy, ix + 1] * fx
        bottom = lattice[iy + 1, ix] * (1 - fx) + lattice[iy + 1, ix + 1] * fx
        layers.append(top * (1 - fy) + bottom * fy)
    layers.append(np.abs((x + 2 * y) % 16 - 8) / 4 - 1)
    layers.append(np.where((x // 8 + y // 8) % 2 == 0, np.float32(0.7), np.float32(-0.7)))
    layers.append(uniform([99, np.arange(side)], side) * 2 - 1)
    return np.stack(layers).astype(np.float32)


@dataclass(frozen=True)
class Scenes:
    """Descriptions of B scenes with up to K objects each, painted in slot order (later objects occlude earlier ones).

    ``kind``, ``colour``, ``size`` are indices into KINDS, COLOURS, SIZES, all (B, K); ``x``, ``y``, ``radius`` in pixels
    (continuous, the first pixel's centre is at .5); ``angle`` in radians; ``present`` False where a slot is empty (slot 0
    never is); ``tint`` (B, K, 3) colour jitter; ``ground`` (B, 12) random numbers of the background, unless it is
    ``plain``: one uniform dark colour in all scenes.
    """

    side: int
    kind: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    present: np.ndarray
    tint: np.ndarray
    ground: np.ndarray
    plain: bool = False

    def __len__(self) -> int:
        return len(self.kind)

    @cached_property
    def _rendered(self) -> tuple[np.ndarray, np.ndarray]:
        canvas, owner = self._background(), np.zeros((len(self), self.side, self.side), np.uint8)
        for slot in range(self.kind.shape[1]):
            scene = np.flatnonzero(self.present[:, slot])
            if len(scene):
                self._paint(canvas, owner, scene, slot)
        if not self.plain:
            grain = self._cut(np.full(len(self), 5), self.ground[:, 10:12])
            canvas += 5 * grain[..., None]
        return (np.clip(canvas, 0, 255) + np.float32(0.5)).astype(np.uint8).transpose(0, 3, 1, 2), owner

    @property
    def images(self) -> np.ndarray:
        """Images uint8 (B, 3, side, side), RGB."""
        return self._rendered[0]

    @property
    def owner(self) -> np.ndarray:
        """Visible object of each pixel, uint8 (B, side, side): slot + 1, 0 for background."""
        return self._rendered[1]

    def semantic(self) -> np.ndarray:
        """Return semantic masks, uint8 (B, side, side): 0 for background, 1 + index into KINDS."""
        classes = np.zeros((len(self), self.kind.shape[1] + 1), np.uint8)
        classes[:, 1:] = self.kind + 1
        return np.take_along_axis(classes, self.owner.reshape(len(self), -1), 1).reshape(self.owner.shape)

    def instances(self, scene: int) -> np.ndarray:
        """Return the visible pixels of each object that has a box, in slot order: bool (N, side, side)."""
        slots = np.flatnonzero(self.boxes()[1][scene])
        return self.owner[scene] == (slots + 1)[:, None, None]

    def boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return tight boxes of the visible pixels, float32 (B, K, 4) xyxy, and bool (B, K), True for slots with a box."""
        seen = self.owner[:, None] == np.arange(1, self.kind.shape[1] + 1, dtype=np.uint8)[:, None, None]
        columns, rows = seen.any(2), seen.any(3)
        x0, y0 = columns.argmax(2), rows.argmax(2)
        x1, y1 = self.side - columns[..., ::-1].argmax(2), self.side - rows[..., ::-1].argmax(2)
        return np.stack([x0, y0, x1, y1], -1).astype(np.float32), np.count_nonzero(seen, (2, 3)) >= _MIN_VISIBLE

    def labels(self) -> np.ndarray:
        """Return the labels of the boxes, int64 (B, K): 1 + index into KINDS (0 is background)."""
        return self.kind + 1

    def caption(self, scene: int) -> str:
        """Describe a scene: "a small red circle left of a blue square"; more than two objects are listed."""
        slots = np.flatnonzero(self.present[scene])
        phrases = []
        for k in slots:
            size = SIZES[self.size[scene, k]]
            kind, colour = KINDS[self.kind[scene, k]], list(COLOURS)[self.colour[scene, k]]
            phrases.append(phrase(kind, colour, None if size == "medium" else size))
        if len(slots) != 2:
            return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))
        dx, dy = (axis[scene, slots[0]] - axis[scene, slots[1]] for axis in (self.x, self.y))
        relation = ("left of" if dx < 0 else "right of") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
        return f"{phrases[0]} {relation} {phrases[1]}"

    def factors(self) -> np.ndarray:
        """Return FACTORS of the first object, float32 (B, 6); x, y, radius as fractions of the side, angle in radians."""
        first = [self.kind, self.colour, self.x / self.side, self.y / self.side, self.radius / self.side, self.angle]
        return np.stack([factor[:, 0] for factor in first], 1).astype(np.float32)

    def _cut(self, texture: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Cut a window of a texture for each scene: float32 (B, side, side)."""
        bank = _textures(self.side + 64)
        corner = (where * 64).astype(int)
        windows = [bank[t, y : y + self.side, x : x + self.side] for t, (y, x) in zip(texture, corner, strict=True)]
        return np.stack(windows)

    def _background(self) -> np.ndarray:
        """Return backgrounds, float32 (B, side, side, 3): a texture between two muted colours, or the plain one."""
        if self.plain:
            return np.tile(np.array(_PLAIN, np.float32), (self.side, self.side, 1))[None].repeat(len(self), 0)
        ground = self.ground.astype(np.float32)
        texture = self._cut((self.ground[:, 0] * 5).astype(int), self.ground[:, 1:3])
        middle = 50 + 150 * (0.6 * ground[:, 3:4] + 0.4 * ground[:, 4:7])
        contrast = (10 + 30 * ground[:, 7:8]) * (0.6 + 0.8 * (ground[:, 8:9] - 0.5) * np.array([1, 0, -1], np.float32))
        return middle[:, None, None] + texture[..., None] * contrast[:, None, None]

    def _paint(self, canvas: np.ndarray, owner: np.ndarray, scene: np.ndarray, slot: int) -> None:
        """Paint one slot's object into each of the given scenes, in windows of the size of the largest."""
        x, y, radius, angle = (a[scene, slot] for a in (self.x, self.y, self.radius, self.angle))
        window = min(self.side, 2 * int(np.ceil(radius.max())) + 2)
        left, top = (np.clip(np.floor(c).astype(int) - window // 2, 0, self.side - window) for c in (x, y))
        columns = left[:, None] + np.arange(window)
        rows = top[:, None] + np.arange(window)
        # Sine and cosine may differ in the last bit between machines; rounded to 2^-20 they do not.
        cos, sin = (np.round(f(angle) * 2**20) / 2**20 / radius for f in (np.cos, np.sin))
        dx = (columns + 0.5 - x[:, None]).astype(np.float32)[:, None, :]
        dy = (rows + 0.5 - y[:, None]).astype(np.float32)[:, :, None]
        cos, sin = (a.astype(np.float32)[:, None, None] for a in (cos, sin))
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        distance = np.empty_like(u)
        for index, kind in enumerate(KINDS):
            chosen = self.kind[scene, slot] == index
            if chosen.any():
                distance[chosen] = _DISTANCES[kind](u[chosen], v[chosen])
        distance *= radius.astype(np.float32)[:, None, None]  # in pixels: coverage falls from 1 to 0 across the edge
        coverage = np.clip(np.float32(0.5) - distance, 0, 1)[..., None]
        light = 1 - np.float32(0.16) * (dx + 2 * dy) / (2 * radius.astype(np.float32)[:, None, None])
        colour = np.array(list(COLOURS.values()), np.float32)[self.colour[scene, slot]] + self.tint[scene, slot]
        at = (scene[:, None, None], rows[:, :, None], columns[:, None, :])
        under = canvas[at]
        canvas[at] = under + coverage * (colour[:, None, None].astype(np.float32) * light[..., None] - under)
        owner[at] = np.where(distance < 0, np.uint8(slot + 1), owner[at])


def check_side(side: int) -> None:
    """Raise a UsageError for an image side that is too small for shapes."""
    if side < 16:
        raise UsageError(f"data.side must be at least 16 pixels for shapes, got {side}")


def check_objects(objects: Sequence[int]) -> None:
    """Raise a UsageError unless these are the least and the greatest number of objects."""
    if not 1 <= objects[0] <= objects[1]:
        raise UsageError(
            f"data.objects must be [fewest, most] with 1 <= fewest <= most, such as [1, 5], got {tuple(objects)}"
        )


@dataclass(frozen=True)
class SceneGenerator:
    """Generator of all scenes of a seed.

    Args:
        seed: seed of all scenes.
        side: side of the image in pixels.
        objects: fewest and most objects in a scene.
        occlusion: objects may overlap.
        plain: the background is one uniform dark colour.
        upright: objects are not rotated.
        zoom: factor on the usual size of objects, at most 2.
    """

    seed: int = 0
    side: int = 64
    objects: tuple[int, int] = (1, 5)
    occlusion: bool = True
    plain: bool = False
    upright: bool = False
    zoom: float = 1.0

    def describe(self, split: LabelledSplit, indices: Sequence[int]) -> Scenes:
        """Return the scenes of a split with these indices; splits never share a scene."""
        keys: list[int | np.ndarray] = [self.seed, LABELLED_SPLITS.index(split), np.asarray(indices, np.int64)]
        slots, side = self.objects[1], self.side
        random = uniform(keys, 13 + slots * (9 + 2 * _CANDIDATES))
        ground, random = random[:, :13], random[:, 13:].reshape(len(random), slots, -1)
        size = (random[..., 2] * len(SIZES)).astype(np.int64)
        low, high = _RADII[size].transpose(2, 0, 1)
        radius = (low + (high - low) * random[..., 3]) * side * self.zoom
        count = self.objects[0] + (ground[:, 12] * (slots - self.objects[0] + 1)).astype(int)
        room = radius[..., None, None] + (side - 2 * radius[..., None, None]) * random[..., 9:].reshape(
            len(random), slots, 2, -1
        )
        x, y, fits = self._place(room, radius)
        return Scenes(
            side=side,
            kind=(random[..., 0] * len(KINDS)).astype(np.int64),
            colour=(random[..., 1] * len(COLOURS)).astype(np.int64),
            size=size,
            x=x,
            y=y,
            radius=radius,
            angle=random[..., 4] * 2 * np.pi * (not self.upright),
            present=fits & (np.arange(slots) < count[:, None]),
            tint=(random[..., 5:8] - 0.5) * 40,
            ground=ground[:, :12],
            plain=self.plain,
        )

    def _place(self, room: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose each object's first candidate position far enough from all earlier ones; False if none is."""
        scenes = np.arange(len(radius))
        x, y = room[:, :, 0, 0].copy(), room[:, :, 1, 0].copy()
        fits = np.ones(radius.shape, bool)
        for slot in range(1, radius.shape[1]):
            dx, dy = (room[:, slot, axis, :, None] - c[:, None, :slot] for axis, c in enumerate((x, y)))
            apart = (_APART[self.occlusion] * (radius[:, :slot] + radius[:, slot : slot + 1]))[:, None]
            free = ((dx * dx + dy * dy >= apart * apart) | ~fits[:, None, :slot]).all(2)
            first = free.argmax(1)
            x[:, slot], y[:, slot] = room[scenes, slot, 0, first], room[scenes, slot, 1, first]
            fits[:, slot] = free.any(1)
        return x, y, fits
