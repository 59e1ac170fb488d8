"""ShapesImages: the embedded world for models that draw."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from darkroom.datamodules.images.base import LabelledImages
from darkroom.datamodules.shapes.scenes import COLOURS, FACTORS, KINDS, World
from darkroom.errors import UsageError

_CLASSES = {
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "kind_colour": tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS),
}


class ObjectImages(Dataset):
    """Scenes of one object: ``{"image": uint8 (3, H, W), "label": int64 (), "factors": float32 (F,)}``."""

    def __init__(self, world: World, split: Literal["train", "val", "test"], length: int, label: str) -> None:
        self.world, self.split, self.length, self.label = world, split, length, label

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A whole batch at once: many times faster than one by one."""
        scenes = self.world.describe(self.split, indices)
        kind, colour = scenes.kind[:, 0], scenes.colour[:, 0]
        label = {"kind": kind, "colour": colour, "kind_colour": kind * len(COLOURS) + colour}[self.label]
        factors = scenes.factors()[:, [FACTORS.index(name) for name in ShapesImages.factor_names]]
        batch = {"image": scenes.images, "label": label, "factors": factors}
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(index)  # ends a for loop over the data set
        return {key: value[0] for key, value in self.__getitems__([index]).items()}


class ShapesImages(LabelledImages):
    """The embedded world for models that draw: one object in every picture, its class and its true factors.

    The factors are kind, colour (their indices), x, y and radius (parts of the side). The angle is none of them, because no
    picture shows it: a circle has none, and a square is itself again after a quarter turn. So objects stand upright by
    default, and the factors and a slight tint decide the picture.

    Args:
        train_size, val_size, test_size: pictures per split.
        side: image side in pixels.
        label: what the class is: the object's kind (5), its colour (8), or both (40, such as "red circle").
        background: "plain": one flat dark colour, the same in all; "textured": the grounds of the other embedded worlds.
        upright: objects are not turned; False: any angle.
        zoom: how many times larger objects are than in the other embedded worlds, from 1 to 2 (the largest nearly fill the
            picture).
        mean, std: see ``LabelledImages``. Pictures do not repeat, so nothing augments them; a flip would make x false.
    """

    factor_names = tuple(name for name in FACTORS if name != "angle")

    def __init__(
        self,
        train_size: int = 16_384,
        val_size: int = 1024,
        test_size: int = 2048,
        side: int = 32,
        label: Literal["kind", "colour", "kind_colour"] = "kind",
        background: Literal["plain", "textured"] = "plain",
        upright: bool = True,
        zoom: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(size=side, flip=False, limit=None, **kwargs)
        if side < 16:
            raise UsageError(f"data.side is {side}; shapes need at least 16 pixels")
        if not 1 <= zoom <= 2:
            raise UsageError(f"data.zoom is {zoom}; it is from 1 to 2, or objects would not fit into the picture")
        self.world = World(self.seed, side, (1, 1), plain=background == "plain", upright=upright, zoom=zoom)
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.label, self.class_names = label, _CLASSES[label]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.world.side, self.world.side

    def dataset(self, split: Literal["train", "val", "test", "predict"]) -> Dataset:
        split = "test" if split == "predict" else split
        return ObjectImages(self.world, split, self.sizes[split], self.label)
