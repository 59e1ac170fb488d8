"""RegionHead: the fully connected layers of a region, the first one by the faster of two equal operations."""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_exporting

from darkroom.lightning_modules.detection.torchvision.cpu_paths import cpu_paths

_FEWEST = 256  # regions from which the convolution is faster: it reorders the whole weight in every call


@cache
def convolutions_alone_use_avx512() -> bool:
    """Return whether torch's float32 convolutions use AVX-512 on this machine and its matrix products do not.

    The products are those of MKL, which uses AVX-512 on Intel's processors only; the convolutions are oneDNN's.
    """
    info = Path("/proc/cpuinfo")
    libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return libraries and avx512 and info.exists() and "GenuineIntel" not in info.read_text(encoding="utf-8")


class FlatteningLinear(nn.Linear):
    """A Linear layer for maps (R, C, H, W), with the values and parameters of ``Linear(C H W, ...)`` after ``Flatten``.

    Where ``convolutions_alone_use_avx512``, many maps in float32 go through a convolution over the whole map, which takes
    about half the time (docs/guides/performance.md).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Compute (R, out_features)."""
        if not self._convolves(input):
            return super().forward(input.flatten(1))
        kernels = self.weight.view(-1, *input.shape[1:])
        return F.conv2d(input, kernels, self.bias).flatten(1)

    @staticmethod
    def _convolves(maps: Tensor) -> bool:
        elsewhere = maps.device.type != "cpu" or is_exporting()  # exported graphs are for other machines
        float32 = maps.dtype == torch.float32 and not torch.is_autocast_enabled(maps.device.type)
        if elsewhere or not float32 or not cpu_paths.get():
            return False
        return len(maps) >= _FEWEST and convolutions_alone_use_avx512()


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
