"""ShapesSegmentation: Shapes, the synthetic dataset, for segmentation."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torchvision.transforms import v2

from darkroom.datamodules.base import LabelledSplit, Split, VisionDataModule
from darkroom.datamodules.datasets import WholeBatchDataset
from darkroom.datamodules.shapes.scenes import KINDS, SceneGenerator, check_objects, check_side
from darkroom.datamodules.transforms.border_map import BorderMap
from darkroom.datamodules.transforms.deconvnet_crops import CROPS
from darkroom.protocols import SizedDataset


class SegmentationScenes(WholeBatchDataset):
    """Scenes as images and semantic masks: ``{"image": uint8 (3, H, W), "mask": uint8 (H, W)}``.

    With ``instances`` also ``"instances"``, int32 (H, W): slot + 1 of the visible object, 0 for none.
    """

    def __init__(self, generator: SceneGenerator, split: LabelledSplit, length: int, instances: bool = False) -> None:
        self.generator, self.split, self.length, self.instances = generator, split, length, instances

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        scenes = self.generator.describe(self.split, indices)
        batch = {"image": torch.from_numpy(scenes.images), "mask": torch.from_numpy(scenes.semantic())}
        return batch | {"instances": torch.from_numpy(scenes.owner.astype(np.int32))} if self.instances else batch


class ShapesSegmentation(VisionDataModule):
    """Shapes, the synthetic dataset, for segmentation: background and five kinds of shapes of any colour.

    Args:
        train_size, val_size, test_size: scenes per split.
        side: image side in pixels; this project measures its metrics at 64.
        objects: fewest and most objects in a scene.
        occlusion: objects may overlap.
        crops: windows for training: "whole" scenes, or the two stages of DeconvNet. "objects" scales one object to the
            side and sets the rest to background; "windows" are scaled, overlap an object and keep all classes.
        borders: add ``border`` to every sample, the distance to the two nearest objects (a weight in U-Net's loss), and in
            training set pixels where objects touch to background.
    """

    class_names = ("background", *KINDS)

    def __init__(
        self,
        train_size: int = 8192,
        val_size: int = 512,
        test_size: int = 1024,
        side: int = 64,
        objects: tuple[int, int] = (1, 5),
        occlusion: bool = True,
        crops: Literal["whole", "objects", "windows"] = "whole",
        borders: bool = False,
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
        self.crops, self.borders = crops, borders

    def fit_to_batch(self) -> list[v2.Transform]:
        """Return the crop that ``crops`` names; none for "whole"."""
        if self.crops == "whole":
            return []
        fill = [round(255 * mean) for mean in self.mean]
        return [CROPS[self.crops](self.generator.side, fill, keep_instances=self.borders)]

    def finish(self, split: Split) -> list[v2.Transform]:
        """Return the transform that adds ``border``, if ``borders`` is set."""
        return [BorderMap(separate=split == "train")] if self.borders else []

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``SegmentationScenes`` of a split; prediction uses the test split."""
        split = "test" if split == "predict" else split
        instances = self.borders or (split == "train" and self.crops != "whole")
        return SegmentationScenes(self.generator, split, self.sizes[split], instances)
