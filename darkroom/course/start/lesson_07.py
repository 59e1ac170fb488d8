"""Lesson 7: U-Net and Mask R-CNN. Write three functions and repair the fourth: darkroom check lesson 7."""

from torch import Tensor
from torch.nn import functional as F


def join_skip(skip: Tensor, x: Tensor) -> Tensor:
    """Crop the center of a skip connection to the size of the upsampled map and concatenate both (Ronneberger et al. 2015).

    Args:
        skip: map of the contracting path, (B, C, H, W).
        x: map of the expanding path, (B, D, h, w), with h <= H and w <= W; the differences are even.

    Returns:
        (B, C + D, h, w): channels of the skip connection first.
    """
    raise NotImplementedError


def border_weight(nearest: Tensor, second: Tensor, w0: float, sigma: float) -> Tensor:
    """Compute the weight of each pixel in U-Net's loss, without the class weights (equation 2).

    Args:
        nearest, second: distance to the nearest and to the second nearest object in pixels, (H, W).
        w0, sigma: 10 and 5 in the paper.

    Returns:
        (H, W): 1 far from the objects, up to 1 + w0 in narrow gaps between two of them.
    """
    raise NotImplementedError


def soft_dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Compute the Dice coefficient of probabilities: twice the overlap over the sum of both areas.

    Args:
        probabilities: of the foreground, (B, H, W) in [0, 1].
        truth: 1 in the foreground, else 0, float (B, H, W); each image has some foreground.

    Returns:
        mean over the images of the coefficient of each, in [0, 1], (); differentiable with respect to the probabilities.
    """
    raise NotImplementedError


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Resize a mask together with its image, for training at another resolution.

    Args:
        mask: class ids, int64 (H, W); 255 is ignored.
        height, width: of the result.

    Returns:
        int64 (height, width): classes that occur in the mask only.
    """
    resized = F.interpolate(mask[None, None].float(), (height, width), mode="bilinear")
    return resized[0, 0].round().long()
