"""ShapesDetection: the embedded world for detection."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.shapes.scenes import KINDS, World
from darkroom.errors import UsageError


class DetectionScenes(Dataset):
    """Scenes as images and objects: ``{"image": uint8 (3, H, W), "target": {"boxes", "labels", "image_id"[, "masks"]}}``.

    Boxes are tight around what is visible of an object, masks are its visible pixels.
    """

    def __init__(self, world: World, split: Literal["train", "val", "test"], length: int, masks: bool = False) -> None:
        self.world, self.split, self.length, self.masks = world, split, length, masks

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A whole batch at once: many times faster than one by one."""
        scenes = self.world.describe(self.split, indices)
        boxes, seen = scenes.boxes()
        labels = scenes.labels()
        targets = []
        for row, index in enumerate(indices):
            target: dict[str, Any] = {
                "boxes": torch.from_numpy(boxes[row][seen[row]]),
                "labels": torch.from_numpy(labels[row][seen[row]]),
                "image_id": int(index),
            }
            if self.masks:
                target["masks"] = torch.from_numpy(scenes.instances(row)).to(torch.uint8)
            targets.append(target)
        return {"image": list(torch.from_numpy(scenes.images)), "target": targets}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)  # ends a for loop over the data set
        return {key: value[0] for key, value in self.__getitems__([index]).items()}


class ShapesDetection(DetectionDataModule):
    """The embedded world for detection: five kinds of shapes, which may hide each other; colour tells nothing.

    Args:
        train_size, val_size, test_size: scenes per split.
        side: image side in pixels.
        objects: fewest and most objects in a scene.
        occlusion: whether objects may overlap.
    """

    class_names = KINDS

    def __init__(
        self,
        train_size: int = 8192,
        val_size: int = 256,
        test_size: int = 1024,
        side: int = 128,
        objects: tuple[int, int] = (1, 5),
        occlusion: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if side < 16:
            raise UsageError(f"data.side is {side}; shapes need at least 16 pixels")
        if not 1 <= objects[0] <= objects[1]:
            raise UsageError(f"data.objects is {tuple(objects)}; it needs 1 <= fewest <= most, for example [1, 5]")
        self.world = World(self.seed, side, tuple(objects), occlusion)
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.world.side, self.world.side

    def default_augment(self) -> list[v2.Transform]:
        return []  # scenes do not repeat

    def finish(self, split: str) -> list[v2.Transform]:
        return super().finish(split) if self.augment or self.proposals else []

    def dataset(self, split: str) -> Dataset:
        split = "test" if split == "predict" else split
        return DetectionScenes(self.world, split, self.sizes[split], self.masks)
