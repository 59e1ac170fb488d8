"""Results of a test of an image classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule
from PIL import Image
from torch import nn

from darkroom.callbacks.results.base import Sample, Subject
from darkroom.callbacks.results.classification import ClassificationRecorder
from darkroom.callbacks.results.recorder import ResultRecorder
from darkroom.datamodules.images.image_folder import ImageFolder
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.classification import ImageClassifier
from darkroom.runtime.records.results import read_results
from darkroom.runtime.records.tables import numbers
from tests.contracts.module import trainer
from tests.fakes.labelled import image_folder


class Identity:
    """Data whose images are not normalized."""

    def denormalize(self, image: torch.Tensor) -> torch.Tensor:
        return image


def classifier(side: int, num_classes: int) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, num_classes)), num_classes=num_classes)


def test_rows_have_truth_prediction_probability_and_loss() -> None:
    recorder = ClassificationRecorder(Subject(LightningModule(), ["a", "b"], Identity(), worst=2, examples=1))
    probabilities = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]])
    labels = torch.tensor([1, 1, 1])
    outputs = {"probabilities": probabilities, "losses": -probabilities[:, 1].log()}
    batch = {"label": labels, "image": torch.rand(3, 3, 4, 4)}
    assert recorder.accepts(outputs, batch)
    recorder.add([Sample(number, f"{number}.png") for number in (4, 7, 9)], outputs, batch)
    assert [(row["sample"], row["name"], row["truth"], row["predicted"]) for row in recorder.rows] == [
        (4, "4.png", 1, 0),
        (7, "7.png", 1, 0),
        (9, "9.png", 1, 1),
    ]
    assert [row["probability"] for row in recorder.rows] == [0.75, 0.5, 0.875]
    assert [row["loss"] for row in recorder.rows] == pytest.approx([1.386294, 0.693147, 0.133531], rel=1e-5)
    assert recorder.images.ranked(("worst",)) == recorder.images.ranked(("confident",)) == [4, 7]
    assert recorder.images.ranked(("cell", 1, 1)) == recorder.images.ranked(("best", 1)) == [9]
    assert recorder.images.images.keys() == {4, 7, 9}


def test_table_agrees_with_metrics_and_images_with_data(tmp_path: Path) -> None:
    data = ShapesImages(label="colour", train_size=4, test_size=37, side=32, eval_batch_size=5, num_workers=0)
    testing = trainer(tmp_path, callbacks=[ResultRecorder(worst=3, examples=1)])
    (metrics,) = testing.test(classifier(32, 8), data, verbose=False)
    results = read_results(tmp_path)
    assert results is not None
    table, summary = results.tables["samples"], results.summary
    assert (summary.task, summary.num_samples, summary.class_names) == ("classification", 37, list(data.class_names))
    assert summary.metrics == pytest.approx(metrics)
    assert table["sample"] == [str(number) for number in range(37)]
    right = numbers(table["truth"]) == numbers(table["predicted"])
    assert right.mean() == pytest.approx(metrics["test/accuracy"])
    assert numbers(table["loss"]).mean() == pytest.approx(metrics["test/loss"], rel=1e-4)
    worst = np.argsort(-numbers(table["loss"]))[:3].tolist()
    kept = [number for number in range(37) if results.image(number)]
    assert set(worst) <= set(kept)
    assert len(kept) < 37
    dataset = data.dataset("test")
    for number in kept:
        path = results.image(number)
        assert path is not None
        image = dataset[number]["image"]
        assert np.array_equal(np.array(Image.open(path)), image.permute(1, 2, 0).numpy())


def test_rows_have_files_as_names(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "data")
    data = ImageFolder(root=str(root), size=16, num_workers=0, test_fraction=0.3, eval_batch_size=4)
    trainer(tmp_path, callbacks=[ResultRecorder()]).test(classifier(16, 2), data, verbose=False)
    results = read_results(tmp_path)
    assert results is not None
    files = [path.relative_to(data.root).as_posix() for path in data.dataset("test").paths]
    assert results.tables["samples"]["name"] == files
