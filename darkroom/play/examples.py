"""Images of the test data with their truth, for a page."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import DataError

COUNT = 12  # examples of a page
_SEARCHED = 48  # samples that are read to find as many of one size
_LARGEST = 4_000_000  # pixels of all examples together


@dataclass(frozen=True)
class Example:
    """Sample of the test data.

    Args:
        image: uint8 (C, H, W).
        name: of its file, or its number.
        truth: entries of the batch without the batch axis: ``label``, ``mask``, ``target``, ``proposals``,
            ``caption``.
    """

    image: Tensor
    name: str
    truth: Mapping[str, Any] = field(default_factory=dict)


def read_examples(data: VisionDataModule, count: int = COUNT) -> list[Example]:
    """Return the first samples of the test split that have the size of its first one; of validation without a test split.

    Raises:
        DataError: neither can be read.
    """
    found: list[Example] = []
    for example in islice(_samples(data), _SEARCHED):
        if found and example.image.shape != found[0].image.shape:
            continue
        found.append(example)
        if len(found) >= min(count, max(1, _LARGEST // example.image[0].numel())):
            break
    if not found:
        raise DataError(f"{type(data).__name__} has no test samples; give the run's data by --config")
    return found


def _samples(data: VisionDataModule) -> Iterator[Example]:
    data.num_workers, data.eval_batch_size = 0, 1
    data.prepare_data()
    try:
        data.setup("test")
        loader = data.test_dataloader()
    except DataError:
        data.setup("validate")
        loader = data.val_dataloader()
    for index, batch in enumerate(loader):
        truth: dict[str, Any] = {
            name: batch[name][0] for name in ("label", "mask", "target", "proposals", "caption") if name in batch
        }
        # Without its folders, which are of this machine: pages are sent to others.
        name = Path(batch["path"][0]).name if "path" in batch else f"test image {index}"
        yield Example(batch["image"][0], name, truth)


def png(pixels: np.ndarray) -> str:
    """Return an image uint8 (H, W) or (H, W, 3) as PNG in Base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def image_png(image: Tensor) -> str:
    """Return an image uint8 (C, H, W) as PNG in Base64."""
    pixels = image.permute(1, 2, 0).numpy()
    return png(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def as_data(examples: Sequence[Example], colours: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Return examples for the script: images, and with colours also masks, as PNG.

    Args:
        examples: of the test data.
        colours: of the values of masks, uint8 (256, 3).
    """
    found: list[dict[str, Any]] = []
    for example in examples:
        one: dict[str, Any] = {"name": example.name, "image": image_png(example.image)}
        if "label" in example.truth:
            one["label"] = int(example.truth["label"])
        if "caption" in example.truth:
            one["caption"] = example.truth["caption"]
        if colours is not None and "mask" in example.truth:
            one["mask"] = png(colours[example.truth["mask"].numpy()])
        if "target" in example.truth:
            target = example.truth["target"]
            one |= {name: target[name].tolist() for name in ("boxes", "labels")}
        if "proposals" in example.truth:
            one["proposals"] = example.truth["proposals"].tolist()
        found.append(one)
    return found
