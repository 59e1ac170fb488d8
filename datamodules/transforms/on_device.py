"""DeviceAugmentation: the transforms of training samples, applied to a batch on the GPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from darkroom.datamodules.loading import AUGMENT_KEYS, Key, as_tv_tensors, keyed_rng, require_uint8
from darkroom.errors import UsageError

# Of torchvision: they compute on the CPU only, call a function that may, or take random numbers from the images' device.
_REFUSED = (v2.JPEG, v2.PILToTensor, v2.ToImage, v2.Lambda, v2.GaussianNoise)


class DeviceTransform(v2.Transform):
    """Base of transforms that compute on the device of their inputs, as those of torchvision."""


class DeviceAugmentation:
    """Augments the samples of a batch in turn, on their device.

    The random parameters of a sample come from a generator of the CPU, seeded by (seed, epoch, index), as in the loader.
    So the augmentation has the same distribution. Without a transform in the loader, such as a random crop, each sample
    also has the same parameters as there.

    Args:
        transforms: of ``torchvision.transforms.v2``, applied in turn.
        key: integers that seed the generator, before epoch and index: the seed of the augmentation, and others if the
            loader uses the generator of this seed too.

    Raises:
        UsageError: a transform computes on the CPU only.
    """

    def __init__(self, transforms: Sequence[v2.Transform], key: Sequence[int]) -> None:
        for transform in transforms:
            if (culprit := _cpu_only(transform)) is not None:
                raise UsageError(
                    f"data.augment_on_device is true, but data.augment has {type(culprit).__name__}, which may compute "
                    "on the CPU only, or takes its random numbers from the GPU; remove it, or set data.augment_on_device "
                    "to false"
                )
        self.transform, self.key = v2.Compose(list(transforms)), tuple(key)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Augment a batch with uint8 images (B, C, H, W), masks (B, H, W) and other entries of B values."""
        keys: Sequence[Key] = batch[AUGMENT_KEYS]
        rest = {name: values for name, values in batch.items() if name != AUGMENT_KEYS}
        samples = [
            self._augment({name: values[row] for name, values in rest.items()}, key) for row, key in enumerate(keys)
        ]
        columns = {name: [sample[name] for sample in samples] for name in samples[0]}
        return {
            name: torch.stack([_plain(value) for value in column]) if isinstance(column[0], Tensor) else column
            for name, column in columns.items()
        }

    def _augment(self, sample: dict[str, Any], key: Key) -> dict[str, Any]:
        with keyed_rng(*self.key, *key):
            return require_uint8(self.transform(as_tv_tensors(sample)))


def _plain(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor) if isinstance(value, tv_tensors.TVTensor) else value


def _cpu_only(transform: Any) -> Any:
    """Return the transform, or one inside it, that may compute on the CPU only; None if there is none."""
    known = isinstance(transform, DeviceTransform) or type(transform).__module__.startswith("torchvision.transforms.v2")
    if not known or isinstance(transform, _REFUSED):
        return transform
    inner = vars(transform).get("transforms") or list(vars(transform).get("_modules", {}).values())
    inner = [inner] if isinstance(inner, v2.Transform) else list(inner)
    found = (_cpu_only(one) for one in inner if isinstance(one, v2.Transform) and one is not transform)
    return next((one for one in found if one is not None), None)
