"""Crops around objects for the two training stages of DeconvNet (Noh et al. 2015)."""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.ndimage import find_objects
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from darkroom.datamodules.io.read_images import IGNORE

CONTEXT = 1.2  # factor that enlarges a box around its centre
WARPED = 250 / 224  # side of the warped box over the side of the random crop
MIN_SIDE = 4  # pixels; an object with a smaller side has too few pixels to enlarge
MIN_IOU = 0.5
_TRIES = 50


def padded_random_crop(side: int, fill: Sequence[int]) -> v2.Transform:
    """Return a random crop of ``side`` pixels that pads images with ``fill`` (per channel, 0 to 255), masks with 255."""
    return v2.RandomCrop(side, pad_if_needed=True, fill={tv_tensors.Image: list(fill), tv_tensors.Mask: IGNORE})


class ObjectCrop(v2.Transform):
    """First stage: a random object in the middle of a square window; the other classes become background.

    The sample must have ``image``, ``mask`` and ``instances`` (int (H, W), 0 for none). The square around the object's box,
    1.2 times as large, is scaled to 250/224 of ``side``, and a random crop of it is returned. Other objects of the same
    class keep their class, since equal objects must have equal labels. An image without objects gives a random crop.

    Args:
        side: height and width of the result in pixels.
        fill: padding of the image, per channel, 0 to 255; masks are padded with 255.
        keep_instances: leave ``instances`` in the sample, cropped like the mask.
    """

    def __init__(self, side: int, fill: Sequence[int], keep_instances: bool = False) -> None:
        super().__init__()
        self.side, self.fill, self.keep_instances = side, list(fill), keep_instances
        self.warped = round(side * WARPED)
        self.without_objects = padded_random_crop(side, fill)

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        found = find_objects(sample["instances"].numpy())
        objects = [
            (number, torch.tensor([place[1].start, place[0].start, place[1].stop, place[0].stop]))
            for number, place in enumerate(found, 1)
            if place is not None and min(side.stop - side.start for side in place) >= MIN_SIDE
        ]
        if objects:
            sample = self.crop(sample, *objects[int(torch.randint(len(objects), ()))])
        else:
            sample = self.without_objects(sample)
        return sample if self.keep_instances else {key: sample[key] for key in sample if key != "instances"}

    def crop(self, sample: dict[str, Any], number: int, box: Tensor) -> dict[str, Any]:
        """Crop the sample to a window around the instance ``number`` with this box (xyxy, pixels)."""
        mask = sample["mask"]
        own = mask[sample["instances"] == number][0]
        sample = sample | {"mask": tv_tensors.Mask(torch.where((mask == own) | (mask == IGNORE), mask, 0))}
        longer = (box[2:] - box[:2]).max()
        return self.cut(sample, self.enlarge_box(box, longer.expand(2)))

    @staticmethod
    def enlarge_box(box: Tensor, size: Tensor) -> Tensor:
        """Return a box of 1.2 times ``size`` (width, height) around the same centre, in whole pixels."""
        centre, half = (box[:2] + box[2:]) / 2, size * CONTEXT / 2
        return torch.cat([(centre - half).floor(), (centre + half).ceil()]).int()

    def cut(self, sample: dict[str, Any], box: Tensor) -> dict[str, Any]:
        """Warp the box to a square and take a random crop of it."""
        left, top, right, bottom = box.tolist()
        height, width = sample["mask"].shape
        # Pixels of the box outside of the image: left, top, right, bottom.
        outside = [max(0, -left), max(0, -top), max(0, right - width), max(0, bottom - height)]
        y, x = torch.randint(self.warped - self.side + 1, (2,)).tolist()
        crops = {}
        for key, fill in (("image", self.fill), ("mask", IGNORE), ("instances", 0)):
            padded = F.pad(sample[key], outside, fill=fill)
            window = padded[..., top + outside[1] : bottom + outside[1], left + outside[0] : right + outside[0]]
            # F.resize uses "nearest" for masks, which shifts them by half a pixel against the image.
            how = InterpolationMode.BILINEAR if key == "image" else InterpolationMode.NEAREST_EXACT
            window = F.resize_image(window.reshape(-1, *window.shape[-2:]), [self.warped, self.warped], how)
            crop = window[..., y : y + self.side, x : x + self.side].reshape(*sample[key].shape[:-2], self.side, -1)
            crops[key] = tv_tensors.wrap(crop, like=sample[key])
        return sample | crops


class WindowCrop(ObjectCrop):
    """Second stage: a random window that overlaps an object's box with IoU >= .5, with all classes.

    It replaces the paper's object proposals. The window, 1.2 times as large, is warped to a square of 250/224 of
    ``side``, and a random crop of it is returned. An image without objects gives a random crop.
    """

    def crop(self, sample: dict[str, Any], number: int, box: Tensor) -> dict[str, Any]:
        """Crop the sample to a random window that overlaps this box (xyxy, pixels) with IoU >= .5."""
        height, width = sample["mask"].shape
        window = self.propose(box, torch.tensor([width, height]))
        return self.cut(sample, self.enlarge_box(window, window[2:] - window[:2]))

    @staticmethod
    def propose(box: Tensor, image_size: Tensor) -> Tensor:
        """Return a random box within the image (width, height) whose IoU with ``box`` is at least .5; all xyxy, pixels."""
        size = box[2:] - box[:2]
        for _ in range(_TRIES):
            centre = (box[:2] + box[2:]) / 2 + size * (torch.rand(2) - 0.5)
            half = size * 2 ** (2 * torch.rand(2) - 1) / 2  # half to twice the width and height
            window = torch.cat([(centre - half).clamp(min=0), torch.minimum(centre + half, image_size)])
            if box_iou(window[None], box[None]) >= MIN_IOU:
                return window
        return box


CROPS = {"objects": ObjectCrop, "windows": WindowCrop}
