"""Results of a test of a segmentation model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from PIL import Image

from darkroom.callbacks.results.base import Sample, Subject
from darkroom.callbacks.results.recorder import ResultRecorder
from darkroom.callbacks.results.segmentation import SegmentationRecorder, connected_objects
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules.segmentation import SemanticSegmentation
from darkroom.runtime.records.results import read_results
from darkroom.runtime.records.tables import numbers
from tests.callbacks.results.test_classification import Identity
from tests.contracts.module import trainer
from tests.fakes.parts import TinyNetwork

TRUTH = torch.tensor([[[0, 0, 1], [0, 1, 255]], [[0, 0, 0], [0, 0, 0]]])
PREDICTION = torch.tensor([[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])


def record(**kwargs: Any) -> SegmentationRecorder:
    """Record two images of two classes; one pixel is ignored."""
    options = {"worst": 1, "examples": 1, "module": LightningModule(), "data": Identity(), "class_names": ["a", "b"]}
    recorder = SegmentationRecorder(Subject(**{**options, **kwargs}))
    batch, outputs = {"mask": TRUTH, "image": torch.rand(2, 3, 2, 3)}, {"prediction": PREDICTION}
    assert recorder.accepts(outputs, batch)
    recorder.add([Sample(3, "x.png"), Sample(5, "y.png")], outputs, batch)
    return recorder


def test_rows_have_values_of_each_image(tmp_path: Path) -> None:
    recorder = record()
    first, second = recorder.rows
    # Class a: 2 pixels right, 1 as b, 1 of b as a. Class b: 1 right.
    assert first == {
        "sample": 3,
        "name": "x.png",
        "mIoU": pytest.approx((2 / 4 + 1 / 3) / 2),
        "pixel_accuracy": pytest.approx(3 / 5),
        "IoU/a": 0.5,
        "IoU/b": pytest.approx(1 / 3),
    }
    assert second == {"sample": 5, "name": "y.png", "mIoU": 1.0, "pixel_accuracy": 1.0, "IoU/a": 1.0}
    assert recorder.confusion.tolist() == [[2 + 6, 1], [1, 1]]
    assert recorder.images.ranked(("worst",)) == [3]
    assert recorder.images.ranked(("best", 0)) == [5]
    recorder.gather(trainer(tmp_path))
    (tmp_path / "images").mkdir()
    recorder.write(tmp_path)
    assert (tmp_path / "confusion.csv").read_text().split() == ["truth,0,1", "0,8,1", "1,1,1"]
    assert (tmp_path / "objects.csv").read_text().split() == [
        "sample,class,pixels,found",
        "3,0,3,0.666667",
        "3,1,1,1",
        "3,1,1,0",
        "5,0,6,1",
    ]
    truth = np.array(Image.open(tmp_path / "images/000003-truth.png"))
    assert truth.tolist() == TRUTH[0].tolist()
    prediction = np.array(Image.open(tmp_path / "images/000003-prediction.png"))
    assert prediction.tolist() == PREDICTION[0].tolist()


def test_image_of_ignored_pixels_has_no_values() -> None:
    recorder = SegmentationRecorder(Subject(LightningModule(), ["a", "b"], Identity(), 4, 4))
    batch = {"mask": torch.full((1, 2, 2), 255), "image": torch.rand(1, 3, 2, 2)}
    recorder.add([Sample(0, "")], {"prediction": torch.zeros(1, 2, 2, dtype=torch.long)}, batch)
    assert recorder.rows == [{"sample": 0, "name": ""}]
    assert not recorder.confusion.any()
    assert not recorder.images.images


def test_ignored_class_of_the_model_is_255_in_the_files() -> None:
    model = SemanticSegmentation(TinyNetwork(3), num_classes=3, ignore_index=1)
    recorder = record(module=model, class_names=["a", "b", "c"])
    assert recorder.confusion.sum() == 4 + 6 - 1  # the pixel 255 is left out as well
    assert recorder.confusion[1].sum() == 0


def test_diagonal_neighbours_are_two_objects() -> None:
    truth = np.array([[1, 0], [0, 1]], np.uint8)
    areas = connected_objects(5, truth, truth)
    assert areas.tolist() == [[5, 0, 1, 1], [5, 0, 1, 1], [5, 1, 1, 1], [5, 1, 1, 1]]


def test_tables_agree_with_metrics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = ShapesSegmentation(train_size=4, test_size=13, side=32, eval_batch_size=4, num_workers=0)
    testing = trainer(tmp_path, callbacks=[ResultRecorder(worst=2, examples=1)])
    (metrics,) = testing.test(SemanticSegmentation(TinyNetwork(6), num_classes=6), data, verbose=False)
    results = read_results(tmp_path)
    assert results is not None
    table = results.tables["confusion"]
    confusion = np.stack([numbers(table[str(label)]) for label in range(6)], 1)
    iou = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    assert np.nanmean(iou) == pytest.approx(metrics["test/mIoU"], rel=1e-5)
    assert np.trace(confusion) / confusion.sum() == pytest.approx(metrics["test/pixel_accuracy"], rel=1e-5)
    samples, objects = results.tables["samples"], results.tables["objects"]
    assert numbers(samples["pixel_accuracy"]).mean() == pytest.approx(metrics["test/pixel_accuracy"], rel=1e-4)
    assert numbers(objects["pixels"]).sum() == 13 * 32 * 32
    for label in range(6):
        pixels, found = (numbers(objects[name])[numbers(objects["class"]) == label] for name in ("pixels", "found"))
        assert pixels.sum() == confusion[label].sum()
        assert (pixels * found).sum() == pytest.approx(confusion[label, label], abs=0.1)
    dataset = data.dataset("test")
    worst = int(np.argmin(numbers(samples["mIoU"])))
    files = [results.image(worst, kind) for kind in ("", "truth", "prediction")]
    pixels, truth, prediction = (np.array(Image.open(path)) for path in files if path)
    assert np.array_equal(pixels, dataset[worst]["image"].permute(1, 2, 0).numpy())
    assert np.array_equal(truth, dataset[worst]["mask"].numpy())
    assert (truth == prediction).mean() == pytest.approx(float(samples["pixel_accuracy"][worst]), rel=1e-4)


def test_large_images_are_scaled_down(tmp_path: Path) -> None:
    recorder = SegmentationRecorder(Subject(LightningModule(), ["a", "b"], Identity(), 1, 0))
    mask = torch.zeros(1, 300, 1024, dtype=torch.long)
    mask[:, :, 512:] = 1
    recorder.add([Sample(0, "")], {"prediction": mask}, {"mask": mask, "image": torch.rand(1, 3, 300, 1024)})
    recorder.gather(trainer(tmp_path))
    (tmp_path / "images").mkdir()
    recorder.write(tmp_path)
    with Image.open(tmp_path / "images/000000.png") as image, Image.open(tmp_path / "images/000000-truth.png") as truth:
        assert image.size == truth.size == (512, 150)
        assert np.unique(np.array(truth)).tolist() == [0, 1]
    assert recorder.notes == ["Images with a side above 512 pixels are scaled down to 512."]
