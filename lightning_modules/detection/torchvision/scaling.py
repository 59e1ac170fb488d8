"""ImageScaling: resizing of images for R-CNN detectors, and of their boxes and masks back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, sym_max, sym_min
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.boxes import clip
from darkroom.lightning_modules.detection.torchvision.masks import paste
from darkroom.lightning_modules.layers.pretrained import Normalization
from darkroom.lightning_modules.layers.symbolic_sides import as_one_symbol, ceil_div


class ImageScaling(GeneralizedRCNNTransform):
    """Normalize and scale images, pad them to one batch, and scale detections back to the images' own size.

    torchvision's rounds a side of less than one pixel down to 0, which fails for images of 1 x 900 pixels; here a side has
    at least one pixel.

    Args:
        min_side, max_side: images are resized so that the shorter side has ``min_side`` pixels, or less if the longer one
            would have more than ``max_side``.
        normalization: of the images.

    Raises:
        UsageError: the sides are not above 0 and ascending.
    """

    def __init__(self, min_side: int, max_side: int, normalization: Normalization) -> None:
        if not 0 < min_side <= max_side:
            raise UsageError(f"model.min_side must be above 0 and at most max_side, {max_side}, got {min_side}")
        super().__init__(min_side, max_side, list(normalization.mean), list(normalization.std))
        for name, values in zip(("mean", "std"), normalization.tensors(), strict=True):
            self.register_buffer(name, values, persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        """Normalize an image (3, H, W) in [0, 1] by mean and standard deviation."""
        return (image - self.mean) / self.std

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size to which an image is resized; sides may be symbolic, as in a traced graph."""
        short, long = sym_min(height, width), sym_max(height, width)

        def scaled(side: int) -> int:
            fitting = sym_min(_round(side * self.min_size[0], short), _round(side * self.max_size, long))
            return as_one_symbol(sym_max(1, fitting), least=1)

        return scaled(height), scaled(width)

    def describe(self) -> str:
        """Return the rule of resizing as a sentence."""
        return (
            f"the graph resizes images so that the shorter side has {self.min_size[0]} pixels, or less if the longer one "
            f"would have more than {self.max_size}; boxes are in pixels of the image"
        )

    def scale_batch(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Normalize, resize and pad images (B, 3, H, W) of one size; return their size before padding too."""
        size = self.scaled_size(*images.shape[-2:])
        images = F.interpolate(self.normalize(images), size, mode="bilinear", align_corners=False)
        stride = self.size_divisible
        bottom, right = (as_one_symbol(ceil_div(side, stride), least=1) * stride - side for side in size)
        return F.pad(images, (0, right, 0, bottom)), size

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize an image (3, H, W), and the boxes and masks of its target in place."""
        height, width = image.shape[-2:]
        size = self.scaled_size(height, width)
        if size == (height, width):
            return image, target
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = rescale(target["boxes"], (height, width), size)
            if "masks" in target:
                masks = target["masks"][:, None].to(torch.uint8)
                target["masks"] = F.interpolate(masks, size, mode="nearest-exact")[:, 0]
        return image, target

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: list[tuple[int, int]], original_image_sizes: list[Any]
    ) -> list[dict[str, Tensor]]:
        """Scale boxes and paste masks of detections, in place, from resized images to the original sizes."""
        for found, candidates, size in zip(result, image_shapes, original_image_sizes, strict=True):
            found["boxes"] = clip(rescale(found["boxes"], candidates, size), size)
            if "masks" in found:
                found["masks"] = paste(found["masks"], found["boxes"], size)
        return result


def _round(numerator: int, denominator: Any) -> int:
    """Return the rounded quotient of integers, which may be symbolic; halves are rounded up."""
    return (2 * numerator + denominator) // (2 * denominator)


def rescale(boxes: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Rescale boxes (N, 4) from one size (height, width) of their image to another."""
    (y, x) = (new / old for new, old in zip(after, before, strict=True))
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([x0 * x, y0 * y, x1 * x, y1 * y], 1)
