"""ShapesDetection: Shapes, the synthetic dataset, for detection."""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import v2

from darkroom.datamodules.base import LabelledSplit, Split
from darkroom.datamodules.datasets import WholeBatchDataset
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.shapes.scenes import KINDS, SceneGenerator, check_objects, check_side
from darkroom.protocols import SizedDataset


class DetectionScenes(WholeBatchDataset):
    """Scenes as images and objects: ``{"image": uint8 (3, H, W), "target": {"boxes", "labels", "image_id"[, "masks"]}}``.

    Boxes are tight around the visible pixels of an object, which are its mask.
    """

    def __init__(self, generator: SceneGenerator, split: LabelledSplit, length: int, masks: bool = False) -> None:
        self.generator, self.split, self.length, self.masks = generator, split, length, masks

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        scenes = self.generator.describe(self.split, indices)
        boxes, visible = scenes.boxes()
        labels = scenes.labels()
        targets = []
        for row, index in enumerate(indices):
            target: dict[str, Any] = {
                "boxes": torch.from_numpy(boxes[row][visible[row]]),
                "labels": torch.from_numpy(labels[row][visible[row]]),
                "image_id": int(index),
            }
            if self.masks:
                target["masks"] = torch.from_numpy(scenes.instances(row)).to(torch.uint8)
            targets.append(target)
        return {"image": list(torch.from_numpy(scenes.images)), "target": targets}


class ShapesDetection(DetectionDataModule):
    """Shapes, the synthetic dataset, for detection: five kinds of shapes of any colour, which may overlap.

    Args:
        train_size, val_size, test_size: scenes per split.
        side: image side in pixels.
        objects: fewest and most objects in a scene.
        occlusion: objects may overlap.
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
        check_side(side)
        check_objects(objects)
        self.generator = SceneGenerator(
            seed=self.seed, side=side, objects=(objects[0], objects[1]), occlusion=occlusion
        )
        self.image_shape = 3, side, side
        self.sizes: dict[LabelledSplit, int] = {"train": train_size, "val": val_size, "test": test_size}

    def default_augment(self) -> list[v2.Transform]:
        """Return no transforms: scenes do not repeat."""
        return []  # scenes do not repeat

    def finish(self, split: Split) -> list[v2.Transform]:
        """Return the transform that drops cropped objects, if there is augmentation or proposals."""
        return super().finish(split) if self.augment or self.proposals else []

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``DetectionScenes`` of a split; prediction uses the test split."""
        split = "test" if split == "predict" else split
        return DetectionScenes(self.generator, split, self.sizes[split], self.masks)
