"""Precision, recall, confusions and kinds of errors of a detector: cases counted by hand, COCO's code, and tidecv."""

import math
from pathlib import Path

import numpy as np
import pytest

from darkroom.report.tasks.detection import analyse
from darkroom.report.tasks.detection_errors import KINDS, find_errors, gains
from darkroom.report.tasks.matching import (
    Detections,
    Found,
    Objects,
    class_curves,
    confusion,
    curve_of_all,
    match,
    mean_average_precision,
    overlaps,
    precision_recall,
    read_found,
)
from darkroom.runtime.records.results import read_results
from tests.fakes.runs import random_boxes, write_run

NAMES = ["circle", "square", "star"]


def make(truths: list[list[float]], detections: list[list[float]]) -> Found:
    """Return objects (sample, class, x0, y0, x1, y1, ignored) and detections (sample, class, score, x0, y0, x1, y1)."""
    t, d = np.array(truths, dtype=float).reshape(-1, 7), np.array(detections, dtype=float).reshape(-1, 7)
    d = d[np.lexsort((-d[:, 2], d[:, 0]))]
    return Found(
        Objects(t[:, 0].astype(int), t[:, 1].astype(int), t[:, 2:6], t[:, 6] > 0),
        Detections(d[:, 0].astype(int), d[:, 1].astype(int), d[:, 3:], d[:, 2]),
        NAMES,
    )


def test_overlap_is_intersection_over_union() -> None:
    boxes, others = np.array([[0, 0, 10, 10]]), np.array([[0, 0, 10, 5], [5, 5, 15, 15], [20, 20, 30, 30]])
    np.testing.assert_allclose(overlaps(boxes, others), [[0.5, 25 / 175, 0]])
    np.testing.assert_allclose(overlaps(boxes, others, np.array([True] * 3)), [[0.5, 0.25, 0]])


def test_object_is_found_once_by_the_highest_score() -> None:
    found = make([[0, 1, 0, 0, 10, 10, 0]], [[0, 1, 0.4, 0, 0, 10, 10], [0, 1, 0.9, 0, 0, 10, 9]])
    matches = match(found, 0.5)
    assert matches.object.tolist() == [0, -1]  # by descending score
    assert matches.found.tolist() == [True]


def test_detection_on_ignored_object_does_not_count() -> None:
    crowd = [0, 1, 0, 0, 100, 100, 1]
    found = make([crowd], [[0, 1, 0.9, 0, 0, 10, 10], [0, 1, 0.8, 0, 0, 10, 10], [0, 2, 0.7, 0, 0, 10, 10]])
    matches = match(found, 0.5)
    assert matches.ignored.tolist() == [True, True, False]  # a square is not inside a crowd of circles
    assert class_curves(found, matches)[2].objects == 0
    assert curve_of_all(found, matches).objects == 0


def test_precision_and_recall_of_three_detections() -> None:
    curve = precision_recall(np.array([0.5, 0.9, 0.7]), np.array([True, True, False]), objects=4)
    assert curve.scores.tolist() == [0.9, 0.7, 0.5]
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4])
    # Precision 1 at the recalls 0 to .25, 2/3 to .5, then 0.
    assert curve.average_precision == pytest.approx((26 * 1 + 25 * 2 / 3) / 101)
    np.testing.assert_allclose(curve.f1, [2 / 5, 2 / 6, 4 / 7])
    assert curve.best == (0.5, pytest.approx(4 / 7))


def test_threshold_keeps_detections_with_equal_scores_together() -> None:
    curve = precision_recall(np.array([0.9, 0.5, 0.5]), np.array([True, True, False]), objects=2)
    assert curve.best == (0.5, pytest.approx(4 / 5))  # not 1, which no threshold reaches


@pytest.mark.parametrize(("objects", "detections"), [(0, 0), (0, 2), (2, 0)])
def test_curves_without_objects_or_detections(objects: int, detections: int) -> None:
    curve = precision_recall(np.linspace(0.5, 1, detections), np.zeros(detections, dtype=bool), objects)
    assert math.isnan(curve.average_precision) == (objects == 0)
    assert math.isnan(curve.best[0])


def coco_average_precisions(truths: list, detections: list, samples: int, iou: float) -> list[float]:
    """Return the AP of each class by faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    def dataset(boxes: list[dict]) -> COCO:
        coco = COCO()
        categories = [{"id": label, "name": name} for label, name in enumerate(NAMES, 1)]
        coco.dataset = {"images": [{"id": i} for i in range(samples)], "categories": categories, "annotations": boxes}
        coco.createIndex()
        return coco

    def box(index: int, sample: float, label: float, corners: list[float]) -> dict:
        x0, y0, x1, y1 = corners
        size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        return {"id": index + 1, "image_id": int(sample), "category_id": int(label), **size}

    gt = [box(i, row[0], row[1], row[2:6]) | {"iscrowd": int(row[6])} for i, row in enumerate(truths)]
    dt = [box(i, row[0], row[1], row[3:]) | {"score": row[2]} for i, row in enumerate(detections)]
    evaluation = COCOeval_faster(dataset(gt), dataset(dt), "bbox", print_function=lambda *_: None)
    evaluation.params.iouThrs = np.array([iou])
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"].reshape(1, 101, len(NAMES), -1, 3)[0, :, :, 0, -1]
    return precision.mean(0).tolist()


@pytest.mark.parametrize("iou", [0.5, 0.75])
@pytest.mark.parametrize("seed", [0, 1])
def test_average_precision_equals_coco(iou: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths, detections = random_boxes(20, 100, rng)
    for row in truths[::7]:
        row[6] = 1
    found = make(truths, detections)
    curves = class_curves(found, match(found, iou))
    expected = coco_average_precisions(truths, detections, 20, iou)
    assert [curves[label].average_precision for label in (1, 2, 3)] == pytest.approx(expected)


# A scene of 100 x 100 with a circle and a square, and a detection of every kind.
CIRCLE, SQUARE = [0, 1, 0, 0, 20, 20, 0], [0, 2, 60, 60, 80, 80, 0]
LONE = [1, 3, 10, 10, 40, 40, 0]


@pytest.mark.parametrize(
    ("detection", "kind"),
    [
        ([0, 1, 0.5, 0, 0, 20, 20], "duplicate"),
        ([0, 3, 0.5, 0, 0, 20, 20], "classification"),
        ([0, 2, 0.5, 60, 60, 80, 68], "localization"),  # IoU .4
        ([0, 3, 0.5, 60, 60, 80, 68], "both"),
        ([0, 1, 0.5, 40, 0, 50, 10], "background"),
        ([0, 2, 0.5, 60, 60, 80, 61], "background"),  # IoU .05
    ],
)
def test_each_kind_of_error(detection: list[float], kind: str) -> None:
    found = make([CIRCLE, SQUARE, LONE], [[0, 1, 0.9, 0, 0, 20, 20], detection])
    errors = find_errors(found, match(found, 0.5))
    assert errors.kind.tolist() == ["", kind]
    # The square is missed unless a localization error is about it; the classification error is about the found circle.
    assert errors.missed.tolist() == [False, kind != "localization", True]
    assert errors.counts()[kind] == 1
    assert sum(errors.counts().values()) == 1 + errors.missed.sum()


def test_gains_of_fixing_each_kind() -> None:
    # A circle that is found, and another one that is located badly: AP50 is 51 of 101 recalls.
    found = make(
        [[0, 1, 0, 0, 20, 20, 0], [1, 1, 0, 0, 20, 20, 0]], [[0, 1, 0.9, 0, 0, 20, 20], [1, 1, 0.8, 0, 0, 20, 8]]
    )
    errors, gained = gains(found)
    assert errors.counts()["localization"] == 1
    assert gained["localization"] == pytest.approx(1 - 51 / 101)
    assert gained == {kind: pytest.approx(0) for kind in KINDS if kind != "localization"} | {
        "localization": gained["localization"]
    }


TIDE_COUNTS = dict(zip(KINDS, (9, 24, 3, 4, 16, 11), strict=True))
TIDE_GAINS = dict(zip(KINDS, (6.7702, 27.9283, 0.4979, 0.2542, 3.2357, 7.413), strict=True))
TIDE_AP50 = 18.0736


def test_errors_equal_those_of_tidecv() -> None:
    """Values of tidecv 1.0.1 for the same boxes."""
    found = make(*random_boxes(20, 100, np.random.default_rng(3)))
    errors, gained = gains(found)
    assert errors.counts() == TIDE_COUNTS
    assert {kind: round(100 * gain, 4) for kind, gain in gained.items()} == TIDE_GAINS
    assert round(100 * mean_average_precision(class_curves(found, match(found, 0.5))), 4) == TIDE_AP50


def test_confusion_with_background() -> None:
    found = make(
        [CIRCLE, SQUARE, LONE],
        [
            [0, 1, 0.9, 0, 0, 20, 20],
            [0, 3, 0.8, 60, 60, 80, 80],
            [0, 2, 0.7, 40, 0, 50, 10],
            [0, 1, 0.2, 40, 0, 50, 10],
        ],
    )
    counts, truth_of, seen_as = confusion(found, threshold=0.5, iou=0.5)
    expected = np.zeros((4, 4), int)
    expected[1, 1] = expected[2, 3] = expected[0, 2] = expected[3, 0] = 1
    assert counts.tolist() == expected.tolist()
    assert truth_of.tolist() == [1, 2, 0, -1]
    assert seen_as.tolist() == [1, 3, 0]


def test_confusion_prefers_the_object_of_the_same_class() -> None:
    pair = [[0, 1, 0, 0, 20, 20, 0], [0, 2, 0, 0, 20, 21, 0]]
    counts, _, _ = confusion(make(pair, [[0, 2, 0.9, 0, 0, 20, 20], [0, 1, 0.8, 0, 0, 20, 20]]), 0.0, 0.5)
    assert counts.diagonal().tolist() == [0, 1, 1, 0]


def test_results_are_read_in_the_order_of_scores(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path / "runs/yolo/0", "detection"))
    assert results is not None
    found = read_found(results)
    assert (np.diff(found.detections.sample) >= 0).all()
    same = np.diff(found.detections.sample) == 0
    assert (np.diff(found.detections.scores)[same] <= 0).all()
    analysis = analyse(found)
    assert 0 < analysis.threshold < 1
    assert analysis.above.sum() == (found.detections.scores >= analysis.threshold).sum()
