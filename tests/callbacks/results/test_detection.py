"""Results of a test of a detector."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from lightning import LightningModule
from torch import Tensor, nn

from darkroom.callbacks.results.base import Sample, Subject
from darkroom.callbacks.results.detection import DetectionRecorder, error_scores
from darkroom.callbacks.results.recorder import ResultRecorder
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.lightning_modules.detection import ObjectDetection
from darkroom.lightning_modules.detection.types import Detections
from darkroom.runtime.records.results import Results, read_results
from darkroom.runtime.records.tables import numbers
from tests.callbacks.results.test_classification import Identity
from tests.contracts.module import trainer

BOX = (0.0, 0.0, 10.0, 10.0)


def objects(*boxes: tuple[float, ...], labels: list[int], scores: list[float] | None = None) -> dict[str, Tensor]:
    made = {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.tensor(labels).long()}
    return made | ({} if scores is None else {"scores": torch.tensor(scores)})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (objects(BOX, labels=[1], scores=[0.75]), {("cell", 1, 1): 0.75}),
        (objects(labels=[], scores=[]), {("missed", 1): 1, ("cell", 1, 0): 1}),
        (objects(BOX, labels=[1], scores=[0.25]), {("missed", 1): 1, ("cell", 1, 0): 1}),  # below the threshold
        (
            objects(BOX, labels=[2], scores=[0.75]),
            {("wrong", 2): 0.75, ("cell", 1, 2): 0.75, ("missed", 1): 1, ("cell", 1, 0): 1},
        ),
        (
            objects((6.0, 0.0, 16.0, 10.0), labels=[1], scores=[0.75]),
            {("located", 1): 0.75, ("cell", 0, 1): 0.75, ("missed", 1): 1, ("cell", 1, 0): 1},
        ),
        (
            objects(BOX, (50.0, 50.0, 60.0, 60.0), BOX, labels=[1, 2, 1], scores=[0.75, 0.625, 0.5]),
            {("cell", 1, 1): 0.75, ("false", 2): 0.625, ("cell", 0, 2): 0.625, ("false", 1): 0.5, ("cell", 0, 1): 0.5},
        ),
    ],
    ids=["right", "missed", "unsure", "wrong class", "badly located", "background and duplicate"],
)
def test_images_are_sorted_by_their_errors(found: dict[str, Tensor], expected: dict[tuple, float]) -> None:
    scores = error_scores(found, objects(BOX, labels=[1]))
    errors = scores.pop(("worst",))
    assert scores == expected
    assert errors == sum(1 for kind, *_ in expected if kind in ("missed", "false", "wrong", "located"))


def test_ignored_objects_are_no_errors() -> None:
    truth = {
        **objects(BOX, BOX, labels=[1, 2]),
        "difficult": torch.tensor([True, False]),
        "iscrowd": torch.tensor([False, True]),
    }
    assert error_scores(objects(labels=[], scores=[]), truth) == {("worst",): 0}
    assert error_scores(objects(BOX, labels=[1], scores=[0.75]), truth)["worst",] == 0
    none = objects(labels=[])
    assert error_scores(objects(BOX, labels=[1], scores=[0.75]), none) == {
        ("worst",): 1,
        ("false", 1): 0.75,
        ("cell", 0, 1): 0.75,
    }


def test_tables_have_all_objects_and_detections(tmp_path: Path) -> None:
    recorder = DetectionRecorder(Subject(LightningModule(), ["cat", "dog"], Identity(), 1, 1))
    target = {**objects(BOX, (1.0, 2.0, 3.5, 4.0), labels=[1, 2]), "difficult": torch.tensor([False, True])}
    batch = {"image": [torch.rand(3, 20, 30), torch.rand(3, 16, 16)], "target": [target, objects(labels=[])]}
    found = [objects(labels=[], scores=[]), objects(BOX, labels=[2], scores=[0.125])]
    assert recorder.accepts(found, batch)
    recorder.add([Sample(8, "a.png"), Sample(2, "b.png")], found, batch)
    recorder.gather(trainer(tmp_path))
    (tmp_path / "images").mkdir()
    recorder.write(tmp_path)
    assert (tmp_path / "samples.csv").read_text().split() == [
        "sample,name,width,height,objects,detections",
        "2,b.png,16,16,0,1",
        "8,a.png,30,20,1,0",
    ]
    assert (tmp_path / "truths.csv").read_text().split() == [
        "sample,class,x0,y0,x1,y1,ignored",
        "8,1,0,0,10,10,0",
        "8,2,1,2,3.5,4,1",
    ]
    assert (tmp_path / "detections.csv").read_text().split() == [
        "sample,class,score,x0,y0,x1,y1",
        "2,2,0.125,0,0,10,10",
    ]


class Guesses(ObjectDetection):
    """Detector that returns the true boxes, moved, some of another class or missed, with random scores."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), num_classes=5)
        self.random = torch.Generator().manual_seed(0)

    def detect(self, batch: Any) -> Detections:
        return [self._guess(target) for target in batch["target"]]

    def _guess(self, target: dict[str, Tensor]) -> Any:
        count = len(target["labels"])
        shift, change, scores = (torch.rand(*size, generator=self.random) for size in ((count, 4), (count,), (count,)))
        labels = torch.where(change < 0.2, 1, target["labels"])
        order = scores.argsort(descending=True)[: max(1, count - 1)]
        boxes = target["boxes"] + 3 * shift
        return {"boxes": boxes[order], "labels": labels[order], "scores": scores[order]}


def evaluate(results: Results) -> np.ndarray:
    """Compute COCO's average precision of each IoU from the tables."""

    def index(table: dict[str, list[str]], **fields: str) -> COCO:
        columns = [numbers(table[name]) for name in ("sample", "class", "x0", "y0", "x1", "y1")]
        boxes = []
        for number, (sample, label, x0, y0, x1, y1) in enumerate(zip(*columns, strict=True), 1):
            box = {"id": number, "image_id": int(sample), "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0]}
            boxes.append(box | {"area": (x1 - x0) * (y1 - y0), "iscrowd": 0})
            boxes[-1] |= {key: float(table[column][number - 1]) for key, column in fields.items()}
        coco = COCO()
        coco.dataset = {
            "images": [{"id": int(sample)} for sample in results.tables["samples"]["sample"]],
            "categories": [{"id": label} for label in range(1, 6)],
            "annotations": boxes,
        }
        coco.createIndex()
        return coco

    evaluation = COCOeval_faster(
        index(results.tables["truths"]), index(results.tables["detections"], score="score"), "bbox"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]
    return np.where(precision < 0, np.nan, precision)


def test_average_precision_of_tables_is_that_of_the_test(tmp_path: Path) -> None:
    data = ShapesDetection(train_size=4, test_size=23, side=64, eval_batch_size=4, num_workers=0)
    (metrics,) = trainer(tmp_path, callbacks=[ResultRecorder(worst=2, examples=1)]).test(Guesses(), data, verbose=False)
    results = read_results(tmp_path)
    assert results is not None
    precision = evaluate(results)
    assert 0.1 < metrics["test/AP50"] < 0.95
    assert np.nanmean(precision[0]) == pytest.approx(metrics["test/AP50"], rel=1e-5)
    assert np.nanmean(precision) == pytest.approx(metrics["test/mAP"], rel=1e-5)
    samples = results.tables["samples"]
    assert numbers(samples["objects"]).sum() == len(results.tables["truths"]["class"])
    assert numbers(samples["detections"]).sum() == len(results.tables["detections"]["class"])
    assert 2 <= sum(results.image(number) is not None for number in range(23)) < 23
