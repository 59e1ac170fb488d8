"""ImageNormalization: the datamodules' normalization as a layer, for exported graphs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ImageNormalization(nn.Module):
    """Normalize images: uint8 (B, C, H, W) -> float32, (x / 255 - mean) / std, with the datamodules' rounding.

    Args:
        mean, std: per channel, of images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1) * 255, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return image.float().sub(self.mean).div(self.std)
