"""Detection in tiles: every object of a large image once, at its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import DataLoader

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection import ObjectDetection
from darkroom.lightning_modules.detection.inference import DetectionInference
from tests.contracts.module import trainer


class BrightRegions(nn.Module):
    """Detector of connected bright regions: the class is 1, or 2 if their brightness is above 0.7, which is the score.

    Args:
        largest: side of the largest image that it accepts, in pixels.
    """

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest, self.unused = largest, nn.Linear(1, 1)

    def forward(self, images: list[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        assert max(max(image.shape[-2:]) for image in images) <= self.largest
        return [self._find(image[0].numpy()) for image in images]

    def _find(self, image: np.ndarray) -> dict[str, Tensor]:
        numbers, count = ndimage.label(image > 0)
        places = ndimage.find_objects(numbers)
        boxes = [[x.start, y.start, x.stop, y.stop] for y, x in places]
        scores = torch.from_numpy(ndimage.maximum(image, numbers, range(1, count + 1)).astype(np.float32).reshape(-1))
        masks = torch.stack(
            [torch.from_numpy(numbers == index) for index in range(1, count + 1)] or [torch.zeros(image.shape)]
        )
        order = scores.argsort(descending=True)
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4)[order],
            "scores": scores[order],
            "labels": 1 + (scores > 0.7).long()[order],
            "masks": masks[order][:, None].float(),
        }


def model(largest: int = 64, **kwargs: Any) -> ObjectDetection:
    return ObjectDetection(BrightRegions(largest), num_classes=2, inference=DetectionInference(**kwargs)).eval()


def image_of(size: tuple[int, int], boxes: list[tuple[int, int, int, int]], values: list[float]) -> Tensor:
    image = torch.zeros(1, *size)
    for (x0, y0, x1, y1), value in zip(boxes, values, strict=True):
        image[:, y0:y1, x0:x1] = value
    return image


def places(found: dict[str, Tensor]) -> list[tuple[int, ...]]:
    """Return the boxes with their labels, sorted."""
    return sorted(
        (*box, label) for box, label in zip(found["boxes"].int().tolist(), found["labels"].tolist(), strict=True)
    )


def test_small_objects_of_large_image_are_found_once() -> None:
    """Place squares of 12 to 30 pixels on all borders and corners of tiles, and elsewhere."""
    rng = np.random.default_rng(0)
    detector = model(512, tile=512, overlap=0.1, tiles_at_once=8, max_detections=2000)
    assert isinstance(detector.network, BrightRegions)
    detector.network._find = without_masks(detector.network._find)  # type: ignore[method-assign]
    borders = [
        [side for start in detector.inference.starts(total) for side in (start, start + 512)] for total in (4000, 1000)
    ]
    boxes, taken = [], np.zeros((1000, 4000), bool)
    crossings = [(x, y) for x in borders[0][1:-1] for y in (*borders[1][1:-1], 200)]
    elsewhere = [(int(x), int(y)) for x, y in rng.integers(40, (3960, 960), (100, 2))]
    for x, y in crossings + elsewhere:
        (w, h), (dx, dy) = rng.integers(12, 31, 2), rng.integers(-10, 11, 2)
        x0, y0 = int(x + dx - w // 2), int(y + dy - h // 2)
        if not taken[y0 - 2 : y0 + h + 2, x0 - 2 : x0 + w + 2].any():
            boxes.append((x0, y0, x0 + int(w), y0 + int(h)))
            taken[y0 : y0 + h, x0 : x0 + w] = True
    values = [0.5 if index % 3 else 0.9 for index in range(len(boxes))]
    (found,) = detector.predict_step({"image": [image_of((1000, 4000), boxes, values)]})
    assert len(boxes) > 80
    assert places(found) == sorted((*box, 1 + (value > 0.7)) for box, value in zip(boxes, values, strict=True))
    assert (found["scores"].diff() <= 0).all()


def without_masks(find: Any) -> Any:
    return lambda image: {key: value for key, value in find(image).items() if key != "masks"}


@pytest.mark.parametrize("size", [(37, 501), (501, 37), (130, 130)])
@pytest.mark.parametrize("overlap", [0.25, 0.6])
def test_objects_larger_than_overlap_and_tile_are_joined(size: tuple[int, int], overlap: float) -> None:
    height, width = size
    boxes = [(3, 5, width - 2, 30), (4, 34, 20, 36)] if width > height else [(5, 3, 30, height - 2), (33, 4, 36, 20)]
    if width == height:
        boxes = [(3, 5, 120, 118), (100, 121, 130, 130)]
    image = image_of(size, boxes, [0.9, 0.5])
    (found,) = model(tile=64, overlap=overlap).predict_step({"image": [image]})
    assert places(found) == [(*boxes[0], 2), (*boxes[1], 1)]
    masks = dict(zip(found["labels"].tolist(), found["masks"], strict=True))
    assert masks[2].dtype == torch.bool
    assert torch.equal(masks[2], image[0] > 0.7)
    assert torch.equal(masks[1], image[0] == 0.5)


def test_touching_objects_of_two_classes_stay_apart() -> None:
    image = image_of((64, 200), [(40, 10, 100, 30), (42, 40, 98, 60)], [0.9, 0.5])
    (found,) = model(tile=64).predict_step({"image": [image]})
    assert places(found) == [(40, 10, 100, 30, 2), (42, 40, 98, 60, 1)]


def test_suppression_and_number_of_detections_count_for_whole_image() -> None:
    boxes = [(x, 10, x + 9, 19) for x in range(5, 190, 15)]
    values = [0.1 + 0.05 * index for index in range(len(boxes))]
    image = image_of((30, 200), boxes, values)
    (found,) = model(tile=64, max_detections=3, score_threshold=0.2).predict_step({"image": [image]})
    torch.testing.assert_close(found["scores"], torch.tensor(sorted(values)[:-4:-1]))


def test_image_without_objects_and_images_that_fit() -> None:
    images = [torch.zeros(1, 70, 100), image_of((64, 1), [(0, 3, 1, 9)], [0.9]), torch.zeros(1, 1, 1)]
    empty, fits, pixel = model(tile=64).predict_step({"image": images, "path": ["a", "b", "c"]})
    assert empty["boxes"].shape == pixel["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 70, 100)
    assert places(fits) == [(0, 3, 1, 9, 2)]


def test_proposals_are_cut_to_tiles() -> None:
    """Use a method that returns its proposals as detections."""
    detector, seen = model(tile=64), []

    def detect(batch: dict[str, Any]) -> list[dict[str, Tensor]]:
        seen.append(len(batch["image"]))
        return [
            {"boxes": boxes, "scores": torch.ones(len(boxes)), "labels": torch.ones(len(boxes), dtype=torch.long)}
            for boxes in batch["proposals"]
        ]

    detector.detect = detect  # type: ignore[method-assign, assignment]
    proposals = torch.tensor([[10.0, 10, 40, 30], [55, 5, 66, 20], [90, 12, 190, 60]])
    (found,) = detector.predict_step({"image": [torch.zeros(3, 64, 200)], "proposals": [proposals]})
    assert places(found) == [(10, 10, 40, 30, 1), (55, 5, 66, 20, 1), (90, 12, 190, 60, 1)]
    assert seen == [4]


def test_test_uses_tiles(tmp_path: Path) -> None:
    boxes, labels = [(5, 5, 25, 25), (58, 30, 70, 44), (80, 50, 190, 60)], torch.tensor([2, 1, 2])
    image = image_of((70, 200), boxes, [0.9, 0.5, 0.8])
    target = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": labels}
    loader = DataLoader(
        [{"image": image, "target": target}],
        collate_fn=lambda samples: {
            "image": [sample["image"] for sample in samples],
            "target": [sample["target"] for sample in samples],
        },
    )
    (metrics,) = trainer(tmp_path).test(model(tile=64), loader, verbose=False)
    assert metrics["test/mAP"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("name", "value"), [("tile", 0), ("overlap", 1.0), ("tiles_at_once", 0)])
def test_invalid_tiles_raise(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"model.inference.{name} must be .*got {value}"):
        DetectionInference(**{name: value})
