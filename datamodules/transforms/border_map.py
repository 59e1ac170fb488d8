"""Border map of U-Net's loss: distance of each pixel to the two nearest instances."""

from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects, maximum_filter, minimum_filter
from torchvision.transforms import v2

from darkroom.datamodules.io.read_images import IGNORE

REACH = 32  # pixels; beyond, the paper's weight exp(-(d1 + d2)^2 / (2 * 5^2)) is less than 1e-8
FAR = 1e4  # distance if fewer than two instances are within reach: any weight that falls with distance is 0


def border_distance(instances: np.ndarray, reach: int = REACH) -> np.ndarray:
    """Compute d1 + d2 of Ronneberger et al. 2015, equation 2: float32 (H, W) in pixels.

    d1 and d2 are the distances between pixel centres to the nearest and the second nearest instance, so d1 is 0 inside an
    instance. They are exact up to ``reach``; FAR if either is greater. ``instances``: int (H, W), 0 for none.
    """
    nearest = np.full(instances.shape, FAR, np.float32)
    second = nearest.copy()
    for number, box in enumerate(find_objects(instances), 1):
        if box is None:
            continue
        # Only the box of the instance and the pixels within reach, which is faster than the whole image.
        window = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
        distance = distance_transform_edt(instances[window] != number).astype(np.float32)
        distance[distance > reach] = FAR
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    return np.minimum(nearest + second, np.float32(FAR))


def find_touching(instances: np.ndarray) -> np.ndarray:
    """Return the pixels of an instance with another instance among their eight neighbours: bool (H, W)."""
    none_is_largest = np.where(instances == 0, np.iinfo(instances.dtype).max, instances)
    return (instances != 0) & (maximum_filter(instances, 3) != minimum_filter(none_is_largest, 3))


class BorderMap(v2.Transform):
    """Convert a sample's ``instances`` (int (H, W)) into its ``border`` (float32 (H, W), see ``border_distance``).

    Args:
        separate: set pixels where instances touch to class 0, the background.
    """

    def __init__(self, separate: bool = False) -> None:
        super().__init__()
        self.separate = separate

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        mask, instances = sample["mask"].numpy(), sample["instances"].numpy()
        # Padding and rotation fill all masks with one value; the class mask shows the filled pixels.
        instances = np.where((mask == 0) | (mask == IGNORE), 0, instances)
        if self.separate:
            # The paper's cells have a line of background between them. Without it, a network cannot learn to separate two
            # cells, whatever the weight of the loss at the border.
            seam = find_touching(instances)
            mask, instances = np.where(seam, 0, mask).astype(mask.dtype), np.where(seam, 0, instances)
        rest = {key: value for key, value in sample.items() if key != "instances"}
        border = torch.from_numpy(border_distance(instances))
        return rest | {"mask": torch.from_numpy(mask), "border": border}
