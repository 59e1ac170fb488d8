"""ShapesImages: Shapes, the synthetic dataset, for generative models."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from darkroom.datamodules.base import LabelledSplit, Split
from darkroom.datamodules.datasets import WholeBatchDataset
from darkroom.datamodules.images.base import LabelledImages
from darkroom.datamodules.shapes.scenes import COLOURS, FACTORS, KINDS, SceneGenerator, check_side
from darkroom.errors import UsageError
from darkroom.protocols import SizedDataset

_CLASSES = {
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "kind_colour": tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS),
}


class ObjectImages(WholeBatchDataset):
    """Scenes of one object: ``{"image": uint8 (3, H, W), "label": int64 (), "factors": float32 (F,)}``."""

    def __init__(self, generator: SceneGenerator, split: LabelledSplit, length: int, label: str) -> None:
        self.generator, self.split, self.length, self.label = generator, split, length, label

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        scenes = self.generator.describe(self.split, indices)
        kind, colour = scenes.kind[:, 0], scenes.colour[:, 0]
        label = {"kind": kind, "colour": colour, "kind_colour": kind * len(COLOURS) + colour}[self.label]
        factors = scenes.factors()[:, [FACTORS.index(name) for name in ShapesImages.factor_names]]
        batch = {"image": scenes.images, "label": label, "factors": factors}
        return {key: torch.from_numpy(value) for key, value in batch.items()}


class ShapesImages(LabelledImages):
    """Shapes, the synthetic dataset, for generative models: one object per image, its class and its true factors.

    The factors are the indices of kind and colour, and x, y and radius as fractions of the side. The angle is not a factor,
    since a circle has none and a square repeats after a quarter turn. So objects are upright by default, and the factors
    and a slight tint determine the image.

    Args:
        train_size, val_size, test_size: images per split.
        side: image side in pixels.
        label: class of an image: the object's kind (5), its colour (8), or both (40, such as "red circle").
        background: "plain": one uniform dark colour in all images; "textured": as in ``ShapesSegmentation``.
        upright: objects are not rotated; False: any angle.
        zoom: factor on the size of objects in ``ShapesSegmentation``, from 1 to 2 (the largest nearly fill the image).
        mean, std: see ``LabelledImages``. Images do not repeat and are not augmented; a flip would make x wrong.
    """

    class_names: Sequence[str] = ()
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
        check_side(side)
        if not 1 <= zoom <= 2:
            raise UsageError(f"data.zoom must be from 1 to 2 for objects to fit into the image, got {zoom}")
        self.generator = SceneGenerator(
            seed=self.seed, side=side, objects=(1, 1), plain=background == "plain", upright=upright, zoom=zoom
        )
        self.image_shape = 3, side, side
        self.sizes: dict[LabelledSplit, int] = {"train": train_size, "val": val_size, "test": test_size}
        self.label, self.class_names = label, _CLASSES[label]

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``ObjectImages`` of a split; prediction uses the test split."""
        split = "test" if split == "predict" else split
        return ObjectImages(self.generator, split, self.sizes[split], self.label)
