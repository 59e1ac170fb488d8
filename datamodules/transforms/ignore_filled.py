"""Keep augmentation from inventing pixels of class 0 where it fills a mask."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from darkroom.datamodules.io.read_images import IGNORE
from darkroom.datamodules.transforms.on_device import DeviceTransform


class IgnoreFilled(DeviceTransform):
    """Apply transforms, then set the mask pixels that they filled to 255, which loss and metrics ignore.

    Rotations, affine maps, crops with padding and the like fill new pixels of a mask with 0, the background class, unless
    ``fill`` says otherwise. A mask of ones that passes through the same transforms shows which pixels are new.

    Args:
        transforms: of ``torchvision.transforms.v2``, applied in turn. Samples without ``mask`` pass through them alone.
    """

    def __init__(self, transforms: Sequence[v2.Transform]) -> None:
        super().__init__()
        self.transforms = v2.Compose(list(transforms))

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        if "mask" not in sample:
            return self.transforms(sample)
        sample = self.transforms(sample | {"valid": tv_tensors.Mask(torch.ones_like(sample["mask"]))})
        filled = sample.pop("valid") == 0
        return sample | {"mask": tv_tensors.Mask(torch.where(filled, IGNORE, sample["mask"]))}


def states_mask_fill(transform: Any) -> bool:
    """Return True if the user has stated how a transform, or one inside it, fills masks: ``fill: {Mask: value}``."""
    fill = vars(transform).get("fill")
    if isinstance(fill, Mapping) and any(isinstance(key, type) and issubclass(key, tv_tensors.Mask) for key in fill):
        return True
    inner = vars(transform).get("transforms") or list(vars(transform).get("_modules", {}).values())
    return any(states_mask_fill(one) for one in inner if one is not transform)
