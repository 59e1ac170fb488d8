"""Charts and tables that W&B gets at the end of a test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.loggers import WandbLogger

from darkroom.callbacks.results.box_matches import true_positives
from darkroom.callbacks.results.recorder import ResultRecorder
from darkroom.callbacks.results.wandb_charts import precision_at_recalls
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules.segmentation import SemanticSegmentation
from darkroom.runtime.records.results import read_results
from darkroom.runtime.records.tables import numbers
from tests.callbacks.results.test_classification import classifier
from tests.callbacks.results.test_detection import Guesses
from tests.callbacks.results.test_recorder import shapes
from tests.contracts.module import trainer
from tests.fakes.parts import TinyNetwork
from tests.runtime.test_wandb import records


def logged(folder: Path, model: LightningModule, data: LightningDataModule) -> tuple[dict[str, Any], dict[str, float]]:
    """Test a model with an offline W&B run; return the logged tables, by name, and the metrics."""
    logger = WandbLogger(save_dir=folder, offline=True)
    recorder = ResultRecorder(worst=2, examples=0)
    (metrics,) = trainer(folder, logger=logger, callbacks=[recorder]).test(model, data, verbose=False)
    import wandb  # here, because it adds a third of a second to the collection of tests

    wandb.finish()
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    artifacts = [record.artifact for record in records(file) if record.WhichOneof("record_type") == "artifact"]
    files = [one for artifact in artifacts for one in artifact.manifest.contents]
    tables = {
        one.path.removesuffix(".table.json"): json.loads(Path(one.local_path).read_text())
        for one in files
        if one.path.endswith(".table.json")
    }
    return tables, metrics


@pytest.mark.slow  # starts W&B
def test_classifier_logs_confusion_matrix_and_worst_images(tmp_path: Path) -> None:
    tables, metrics = logged(tmp_path, classifier(32, 8), shapes())
    assert tables.keys() == {"test/confusion_matrix_table", "test/worst_images"}
    counts = tables["test/confusion_matrix_table"]["data"]
    assert len(counts) == 64
    assert sum(count for *_, count in counts) == 7
    assert sum(count for truth, guess, count in counts if truth == guess) == round(7 * metrics["test/accuracy"])
    table = tables["test/worst_images"]
    assert table["columns"] == ["image", "sample", "truth", "prediction", "probability", "loss"]
    results = read_results(tmp_path)
    assert results is not None
    losses = sorted(numbers(results.tables["samples"]["loss"]), reverse=True)
    assert [row[-1] for row in table["data"]] == pytest.approx(losses[:2], rel=1e-4)


@pytest.mark.slow  # starts W&B
def test_segmentation_logs_pixels_and_images_with_masks(tmp_path: Path) -> None:
    data = ShapesSegmentation(train_size=4, test_size=5, side=32, num_workers=0)
    tables, _ = logged(tmp_path, SemanticSegmentation(TinyNetwork(6), num_classes=6), data)
    assert sum(count for *_, count in tables["test/confusion_matrix_table"]["data"]) == 5 * 32**2
    rows = tables["test/worst_images"]["data"]
    assert len(rows) == 2
    assert rows[0][2] <= rows[1][2]
    assert all(image["_type"] == "image-file" and image["width"] == 32 for image, *_ in rows)
    assert all(set(image["masks"]) == {"ground_truth", "predictions"} for image, *_ in rows)


@pytest.mark.slow  # starts W&B
def test_detector_logs_curves_and_images_with_boxes(tmp_path: Path) -> None:
    data = ShapesDetection(train_size=4, test_size=9, side=64, eval_batch_size=4, num_workers=0)
    tables, metrics = logged(tmp_path, Guesses(), data)
    curves: dict[str, list[float]] = {}
    for name, _, precision in tables["test/pr_curve_table"]["data"]:
        curves.setdefault(name, []).append(precision)
    assert {name: np.mean(curve) for name, curve in curves.items()} == {
        name: pytest.approx(metrics[f"test/VOC_AP50/{name}"], abs=0.02) for name in curves
    }
    assert set(curves) == set(data.class_names)
    image, *_ = tables["test/worst_images"]["data"][0]
    assert set(image["boxes"]) == {"ground_truth", "predictions"}


def test_first_claim_of_an_object_is_right() -> None:
    box, away = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)
    truths = [np.array([[0, 1, *box, 0], [0, 2, *away, 1]]), np.array([[3, 1, *box, 0]])]
    # A duplicate, a detection of another class, one of an ignored object, and one in the second image.
    found = [np.array([[0, 1, 0.5, *box], [0, 1, 0.75, *box], [0, 2, 0.5, *away]]), np.array([[3, 1, 0.25, *box]])]
    ((label, right, objects),) = true_positives(found, truths, 0.5)
    assert (label, right.tolist(), objects) == (1, [True, False, True], 2)
    # Precision 1 up to recall 1/2, then 2/3.
    assert precision_at_recalls(right, objects, 5).tolist() == pytest.approx([1, 1, 1, 2 / 3, 2 / 3])
    assert precision_at_recalls(right[:2], objects, 5).tolist() == [1, 1, 1, 0, 0]
