"""Augmentations that torchvision lacks, for ``data.augment`` by class_path."""

from typing import Any

import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from darkroom.datamodules.io.read_images import IGNORE
from darkroom.datamodules.transforms.on_device import DeviceTransform
from darkroom.errors import UsageError


class ElasticGrid(DeviceTransform):
    """U-Net's elastic deformation (Ronneberger et al. 2015, section 3.1): image and masks are deformed together.

    A coarse grid over the image has random displacements; bicubic interpolation gives every pixel its own. Images are
    sampled bilinearly and mirrored at their edges; masks take the nearest pixel, and 255 (ignored) outside.
    ``v2.ElasticTransform`` differs: blurred noise at every pixel.

    Args:
        grid: points along each side of the image, the first and last on its edges.
        std: standard deviation of a point's displacement along each axis, in pixels.
        p: probability that a sample is deformed.
    """

    def __init__(self, grid: int = 3, std: float = 10.0, p: float = 1.0) -> None:
        super().__init__()
        if grid < 2:
            raise UsageError(f"ElasticGrid.grid must be at least 2 points along a side, got {grid}")
        if std < 0 or not 0 <= p <= 1:
            raise UsageError(f"ElasticGrid must have std >= 0 and 0 <= p <= 1, got std {std} and p {p}")
        self.grid, self.std, self.p = grid, std, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Sample the displacement of every pixel: float32 (1, H, W, 2), x and y, in units of half the image's sides."""
        height, width = v2.query_size(flat_inputs)
        points = self.std * torch.randn(1, 2, self.grid, self.grid) * (torch.rand(()) < self.p)
        pixels = interpolate(points, (height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        # (1, H, W, 2) in the order x, y; the image is 2 wide and 2 high.
        return {"displacement": pixels * 2 / torch.tensor([width, height])}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Deform an image, a mask or boxes by the displacement."""
        displacement = params["displacement"].to(inpt.device)
        if isinstance(inpt, tv_tensors.Mask | tv_tensors.BoundingBoxes):
            # Class masks are uint8; wider integers are instance ids, and 0 is none.
            fill = IGNORE if inpt.dtype == torch.uint8 else 0
            return F.elastic(inpt, displacement, InterpolationMode.NEAREST, fill)
        # F.elastic cannot mirror. Coordinates as in it: pixel centres, with the edges at -1 and 1.
        same = torch.eye(2, 3, device=inpt.device)[None]
        where = affine_grid(same, [1, 1, *inpt.shape[-2:]], align_corners=False) + displacement
        image = grid_sample(inpt[None].float(), where, padding_mode="reflection", align_corners=False)[0]
        return tv_tensors.wrap((image if inpt.is_floating_point() else image.round()).to(inpt.dtype), like=inpt)
