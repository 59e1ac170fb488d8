"""RegionHead: the fully connected layers of a region, the first one on CPUs as a convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_exporting


class FlatteningLinear(nn.Linear):
    """A Linear layer for maps (R, C, H, W), with the values and parameters of ``Linear(C H W, ...)`` after ``Flatten``.

    On CPUs in float32 it is a convolution over the whole map: oneDNN's convolution has AVX-512 on all processors that
    have it, the library of torch's matrix products not on AMD's (docs/guides/performance.md).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Compute (R, out_features)."""
        products = input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        if products or is_exporting() or not len(input):
            return super().forward(input.flatten(1))
        kernels = self.weight.view(-1, *input.shape[1:])
        return F.conv2d(input, kernels, self.bias).flatten(1)


class RegionHead(nn.Module):
    """The hidden layers of torchvision's ``TwoMLPHead``, with the same parameters: maps (R, C, P, P) to features (R, D).

    Args:
        in_features: C P P.
        out_features: D.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc6 = FlatteningLinear(in_features, out_features)
        self.fc7 = nn.Linear(out_features, out_features)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(maps))))
