"""COCOScores against pycocotools and torchmetrics, VOCScores against the definition, both on known examples and ranks."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.metrics import COCOScores, DetectionScores, VOCScores
from tests.fakes.ranks import on_two_ranks

Images = list[dict[str, Tensor]]


def truth(*rows: tuple[float, ...], **optional: list[bool]) -> dict[str, Tensor]:
    """Build objects from rows (x1, y1, x2, y2, label)."""
    table = torch.tensor(rows).reshape(-1, 5)
    flags = {name: torch.tensor(flag) for name, flag in optional.items()}
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), **flags}


def found(*rows: tuple[float, ...]) -> dict[str, Tensor]:
    """Build detections from rows (x1, y1, x2, y2, label, score)."""
    table = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


def compute_metrics(scores: DetectionScores, preds: Images, target: Images) -> dict[str, float]:
    scores.update(preds, target)
    return {name: value.item() for name, value in scores.compute().items()}


def random_set(images: int, classes: int, seed: int = 0, optional: str | None = "difficult") -> tuple[Images, Images]:
    """Generate objects and nearby detections, with ties of scores, empty images and absent classes."""
    torch.manual_seed(seed)
    preds, target = [], []
    for index in range(images):
        objects = int(torch.randint(0, 7, ())) if index % 5 else 0
        corner, size = torch.rand(objects, 2) * 200, torch.rand(objects, 2) * 120 + 4
        boxes, labels = torch.cat([corner, corner + size], 1), torch.randint(1, classes, (objects,))
        target.append({"boxes": boxes, "labels": labels})
        if optional:
            target[-1][optional] = torch.rand(objects) < 0.2
        count = int(torch.randint(0, 12, ())) if index % 7 else 0
        pick = torch.randint(0, max(objects, 1), (count,))
        near = boxes[pick] if objects else torch.tensor([[5.0, 5, 50, 50]]).expand(count, 4)
        near = near + torch.randn(count, 4) * torch.rand(count, 1) * 12
        near = torch.cat([near[:, :2].minimum(near[:, 2:] - 1), near[:, 2:]], 1)
        guess = torch.randint(1, classes, (count,))
        guess = torch.where(torch.rand(count) < 0.8, labels[pick], guess) if objects else guess
        scores = (torch.rand(count) * 20).round() / 20
        preds.append({"boxes": near, "labels": guess, "scores": scores.sort(descending=True).values})
    return preds, target


def with_masks(images: Images, side: int = 320) -> Images:
    """Add an ellipse inside of every box as its mask."""
    grid = torch.arange(side) + 0.5
    for image in images:
        x1, y1, x2, y2 = image["boxes"].T[..., None, None]
        x, y = (grid - (x1 + x2) / 2) / (x2 - x1), (grid[:, None] - (y1 + y2) / 2) / (y2 - y1)
        image["masks"] = x**2 + y**2 < 0.25
    return images


# --- PASCAL VOC -------------------------------------------------------------------------------------------------------

OBJECTS = truth((0, 0, 10, 10, 1), (20, 0, 30, 10, 1), (40, 0, 50, 10, 1), (60, 0, 70, 10, 1))


def test_voc_ap_by_area_and_eleven_points_on_known_example() -> None:
    preds = found(
        (0, 0, 10, 10, 1, 0.9),  # true positive: precision 1, recall 1/4
        (0, 50, 10, 60, 1, 0.8),  # false positive
        (20, 0, 30, 10, 1, 0.7),  # true positive: 2/3, 1/2
        (40, 0, 50, 10, 1, 0.6),  # true positive: 3/4, 3/4
        (0, 80, 10, 90, 1, 0.5),  # false positive; the fourth object is missed
    )
    values = compute_metrics(VOCScores(1, ["cat"]), [preds], [OBJECTS])
    assert values["VOC_AP50"] == values["VOC_AP50/cat"] == pytest.approx((1 + 3 / 4 + 3 / 4) / 4)
    # recalls 0, .1, .2 have precision 1; .3 to .7 have 3/4; .8, .9 and 1 are not reached
    assert values["VOC07_AP50"] == values["VOC07_AP50/cat"] == pytest.approx((3 * 1 + 5 * 3 / 4) / 11)


def test_voc_ap_ranks_detections_over_all_images() -> None:
    """Check that a false positive lowers the precision of lower scores in other images."""
    preds = [found((0, 0, 10, 10, 1, 0.3)), found((0, 0, 5, 5, 1, 0.6))]
    values = compute_metrics(VOCScores(1), preds, [truth((0, 0, 10, 10, 1)), truth()])
    assert values["VOC_AP50"] == values["VOC07_AP50"] == 0.5


def test_voc_duplicate_detection_is_a_false_positive() -> None:
    target = truth((0, 0, 10, 10, 1), (0, 0, 10, 6, 1))
    # Both have the highest IoU with the first object; the second one also overlaps the other (6 / 9 > .5).
    preds = found((0, 0, 10, 10, 1, 0.9), (0, 0, 10, 9, 1, 0.8))
    assert compute_metrics(VOCScores(1), [preds], [target])["VOC_AP50"] == 0.5


def test_voc_ignores_difficult_objects() -> None:
    target = truth((0, 0, 10, 10, 1), (20, 0, 30, 10, 1), difficult=[True, False])
    twice = found((0, 0, 10, 10, 1, 0.9), (0, 0, 10, 9, 1, 0.8), (20, 0, 30, 10, 1, 0.7))
    assert compute_metrics(VOCScores(1), [twice], [target])["VOC_AP50"] == 1
    assert compute_metrics(VOCScores(1), [found((20, 0, 30, 10, 1, 0.7))], [target])["VOC_AP50"] == 1
    assert compute_metrics(VOCScores(1), [found((0, 0, 10, 10, 1, 0.9))], [target])["VOC_AP50"] == 0


def test_voc_ignores_crowds() -> None:
    target = truth((0, 0, 10, 10, 1), (20, 0, 30, 10, 1), iscrowd=[True, False])
    preds = found((0, 0, 10, 10, 1, 0.9), (20, 0, 30, 10, 1, 0.7))
    assert compute_metrics(VOCScores(1), [preds], [target])["VOC_AP50"] == 1


@pytest.mark.parametrize(("threshold", "width"), [(0.5, 5.0), (0.7, 7.0), (0.6, 6.0), (0.9, 9.0)])
def test_voc_iou_equal_to_threshold_matches(threshold: float, width: float) -> None:
    name = f"VOC_AP{width * 10:g}"
    target = [truth((0, 0, 10, 10, 1))]
    assert compute_metrics(VOCScores(1, None, threshold), [found((0, 0, width, 10, 1, 0.9))], target)[name] == 1
    assert compute_metrics(VOCScores(1, None, threshold), [found((0, 0, width - 0.01, 10, 1, 0.9))], target)[name] == 0


def test_voc_mean_excludes_classes_without_objects() -> None:
    target = truth((0, 0, 10, 10, 1), (20, 0, 30, 10, 2), (40, 0, 50, 10, 3), difficult=[False, False, True])
    preds = found((0, 0, 10, 10, 1, 0.9), (20, 0, 30, 10, 1, 0.8), (0, 0, 10, 10, 2, 0.9), (40, 0, 50, 10, 3, 0.9))
    values = compute_metrics(VOCScores(4, ["cat", "dog", "cow", "pig"]), [preds], [target])
    assert (values["VOC_AP50/cat"], values["VOC_AP50/dog"]) == (1, 0)
    assert np.isnan([values[f"{kind}_AP50/{name}"] for kind in ("VOC", "VOC07") for name in ("cow", "pig")]).all()
    assert values["VOC_AP50"] == values["VOC07_AP50"] == 0.5


def test_voc_zero_area_boxes_match_nothing() -> None:
    target = truth((5, 5, 5, 5, 1), (0, 0, 10, 10, 1))
    preds = found((5, 5, 5, 5, 1, 0.9), (0, 0, 10, 10, 1, 0.8))
    assert compute_metrics(VOCScores(1), [preds], [target])["VOC_AP50"] == pytest.approx(0.5 / 2)


def plain_voc(preds: Images, target: Images, label: int, threshold: float) -> tuple[float, float]:
    """Compute the definition by looping over detections."""
    ranking, objects = [], 0
    for image, (p, t) in enumerate(zip(preds, target, strict=True)):
        objects += sum(1 for k, hard in zip(t["labels"], t["difficult"], strict=True) if k == label and not hard)
        for box, k, score in zip(p["boxes"].tolist(), p["labels"], p["scores"].tolist(), strict=True):
            if k == label:
                ranking.append((score, image, box))
    ranking.sort(key=lambda detection: -detection[0])
    taken, tp, fp, curve = set(), 0, 0, []
    for _, image, box in ranking:
        best, chosen = 0.0, None
        for i, other in enumerate(target[image]["boxes"].tolist()):
            if target[image]["labels"][i] == label:
                w = min(box[2], other[2]) - max(box[0], other[0])
                h = min(box[3], other[3]) - max(box[1], other[1])
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
                iou = w * h / (sum(areas) - w * h) if w > 0 and h > 0 else 0.0
                if iou > best:
                    best, chosen = iou, i
        if best >= threshold and target[image]["difficult"][chosen]:
            continue
        if best >= threshold and (image, chosen) not in taken:
            taken.add((image, chosen))
            tp += 1
        else:
            fp += 1
        curve.append((tp, tp / (tp + fp)))
    if not objects:
        return float("nan"), float("nan")
    eleven = [max((p for n, p in curve if 10 * n >= k * objects), default=0) for k in range(11)]
    area = sum(max((p for n, p in curve if n >= k), default=0) for k in range(1, objects + 1))
    return area / objects, sum(eleven) / 11


@pytest.mark.parametrize(("seed", "threshold"), [(0, 0.5), (1, 0.5), (2, 0.7), (3, 0.3)])
def test_voc_matches_definition_on_random_sets(seed: int, threshold: float) -> None:
    preds, target = random_set(60, 5, seed)
    scores = VOCScores(5, iou_threshold=threshold)
    for start in range(0, 60, 7):
        scores.update(preds[start : start + 7], target[start : start + 7])
    values, name = scores.compute(), f"AP{100 * threshold:g}"
    plain = np.array([plain_voc(preds, target, label, threshold) for label in range(1, 6)])
    for kind, expected in zip(("VOC", "VOC07"), plain.T, strict=True):
        ours = [values[f"{kind}_{name}/{label}"].item() for label in range(1, 6)]
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        assert np.isnan(ours[-1])  # an absent class
        assert values[f"{kind}_{name}"].item() == pytest.approx(np.nanmean(expected))
        assert 0.05 < np.nanmean(expected) < 0.95


# --- COCO -------------------------------------------------------------------------------------------------------------

STATS = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")


def compute_with_pycocotools(preds: Images, target: Images, classes: int, kind: str) -> tuple[list[float], list[float]]:
    """Return the nine metrics and the AP of every class by pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluator, mask = (importlib.import_module(f"pycocotools.{name}") for name in ("cocoeval", "mask"))

    def index(images: Images, kind: str) -> object:
        boxes = []
        for number, image in enumerate(images):
            for i, (x1, y1, x2, y2) in enumerate(image["boxes"].tolist()):
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                if "masks" in image and kind == "segm":
                    run = mask.encode(np.asfortranarray(image["masks"][i].numpy().astype(np.uint8)))
                    box |= {"segmentation": run, "area": float(mask.area(run))}
                box |= {name: image[key][i].item() for name, key in FIELDS.items() if key in image}
                boxes.append({"id": len(boxes) + 1, "image_id": number, **box})
        made = coco.COCO()
        pictures = [{"id": number, "height": 320, "width": 320} for number in range(len(images))]
        kinds = [{"id": label} for label in range(1, classes + 1)]
        made.dataset = {"images": pictures, "categories": kinds, "annotations": boxes}
        made.createIndex()
        return made

    objects = index(target, "segm" if "masks" in target[0] else "bbox")  # COCO uses areas of masks
    evaluation = evaluator.COCOeval(objects, index(preds, kind), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][..., 0, -1]
    return evaluation.stats[:9].tolist(), [precision[:, :, k].mean() for k in range(classes)]


FIELDS = {"category_id": "labels", "score": "scores", "iscrowd": "iscrowd"}


def nan_for_minus_one(values: list[float]) -> np.ndarray:
    return np.where(np.array(values) < 0, np.nan, values)


@pytest.mark.parametrize("seed", [0, 1])
def test_coco_matches_pycocotools(seed: int) -> None:
    preds, target = random_set(40, 5, seed, optional="iscrowd")
    stats, of_classes = compute_with_pycocotools(preds, target, 5, "bbox")
    values = compute_metrics(COCOScores(5), preds, target)
    np.testing.assert_allclose([values[name] for name in STATS], nan_for_minus_one(stats), rtol=1e-6)
    ours = [values[f"AP/{label}"] for label in range(1, 6)]
    np.testing.assert_allclose(ours, nan_for_minus_one(of_classes), rtol=1e-6)
    assert np.isnan(ours[-1])
    assert 0.05 < values["mAP"] < 0.95


def test_coco_masks_match_pycocotools() -> None:
    preds, target = map(with_masks, random_set(40, 4, optional="iscrowd"))
    values = compute_metrics(COCOScores(4, masks=True), preds, target)
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        stats, of_classes = compute_with_pycocotools(preds, target, 4, kind)
        np.testing.assert_allclose([values[prefix + name] for name in STATS], nan_for_minus_one(stats), rtol=1e-6)
        ours = [values[f"{prefix}AP/{label}"] for label in range(1, 5)]
        np.testing.assert_allclose(ours, nan_for_minus_one(of_classes), rtol=1e-6)
    assert values["mask_mAP"] != values["mAP"]


@pytest.mark.parametrize("masks", [False, True])
def test_coco_matches_torchmetrics_with_exact_thresholds(masks: bool) -> None:
    """Pass thresholds in float64; torchmetrics' float32 thresholds differ in the fourth digit."""
    detection = pytest.importorskip("torchmetrics.detection")
    preds, target = map(with_masks, random_set(15, 4, optional="iscrowd"))
    kinds = ("bbox", "segm") if masks else ("bbox",)
    exact = {"iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(), "rec_thresholds": np.linspace(0, 1, 101).tolist()}
    theirs = detection.MeanAveragePrecision(iou_type=kinds, backend="faster_coco_eval", class_metrics=True, **exact)
    theirs.update(preds, target)
    theirs, ours = theirs.compute(), compute_metrics(COCOScores(4, masks=masks), preds, target)
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")
    for kind, prefix in zip(kinds, ("", "mask_"), strict=False):
        start = f"{kind}_" if masks else ""
        expected = [theirs[start + name].item() for name in names] + theirs[f"{start}map_per_class"].tolist()
        own = [ours[prefix + name] for name in (*STATS, "AP/1", "AP/2", "AP/3")]
        np.testing.assert_allclose(own, nan_for_minus_one(expected), rtol=1e-6)


def test_coco_matches_known_example() -> None:
    target = [truth((0, 0, 10, 10, 1), (50, 0, 90, 40, 2)), truth((0, 0, 100, 100, 1))]
    preds = [found((0, 0, 10, 8, 1, 0.9), (50, 0, 90, 40, 2, 0.9)), found((0, 0, 100, 100, 1, 0.8))]
    values = compute_metrics(COCOScores(3, ["cat", "dog", "cow"]), preds, target)
    # The small cat has IoU .8: a true positive at 7 of 10 thresholds, and a false positive of higher score at the others.
    # Then recall .5 is the highest, and its precision .5 holds at 51 of 101 recalls.
    cat = (7 * 1 + 3 * 0.5 * 51 / 101) / 10
    assert values["AP/cat"] == pytest.approx(cat)
    assert values["AP/dog"] == 1
    assert np.isnan(values["AP/cow"])
    assert values["mAP"] == pytest.approx((cat + 1) / 2)
    assert (values["AP50"], values["AP75"]) == (1, 1)
    assert values["AP_small"] == pytest.approx(0.7)
    assert (values["AP_medium"], values["AP_large"]) == (1, 1)
    assert values["AR1"] == values["AR100"] == pytest.approx(((7 * 1 + 3 * 0.5) / 10 + 1) / 2)


def test_coco_ignores_crowds() -> None:
    target = truth((0, 0, 100, 100, 1), (200, 0, 210, 10, 1), iscrowd=[True, False])
    preds = found((0, 0, 10, 10, 1, 0.9), (20, 0, 30, 10, 1, 0.8), (200, 0, 210, 10, 1, 0.7))
    assert compute_metrics(COCOScores(1), [preds], [target])["mAP"] == 1
    del target["iscrowd"]
    assert compute_metrics(COCOScores(1), [preds], [target])["mAP"] < 0.5


def test_coco_judges_size_by_the_stated_area() -> None:
    target = truth((0, 0, 40, 40, 1)) | {"area": torch.tensor([900.0])}  # a box of 1600 pixels around a thin object
    preds = found((0, 0, 40, 40, 1, 0.9))
    values = compute_metrics(COCOScores(1), [preds], [target])
    assert values["AP_small"] == 1
    assert np.isnan(values["AP_medium"])
    assert compute_metrics(COCOScores(1), [preds], [truth((0, 0, 40, 40, 1))])["AP_medium"] == 1


def test_coco_counts_detections_up_to_the_limit_of_the_model() -> None:
    boxes = [(20.0 * (i % 15), 20.0 * (i // 15), 20.0 * (i % 15) + 10, 20.0 * (i // 15) + 10, 1) for i in range(150)]
    target, preds = truth(*boxes), found(*[(*box, 0.9) for box in boxes])
    values = compute_metrics(COCOScores(1, max_detections=300), [preds], [target])
    assert values["mAP"] == values["AR300"] == 1
    assert "AR100" not in values
    assert compute_metrics(COCOScores(1), [preds], [target])["AR100"] == pytest.approx(100 / 150)


def test_coco_counts_difficult_objects() -> None:
    target = truth((0, 0, 10, 10, 1), (20, 0, 30, 10, 1), difficult=[True, False])
    assert compute_metrics(COCOScores(1), [found((20, 0, 30, 10, 1, 0.9))], [target])["mAP"] == pytest.approx(51 / 101)


def test_coco_evaluates_masks_separately() -> None:
    target, preds = truth((0, 0, 10, 20, 1)), found((0, 0, 10, 20, 1, 0.9))
    whole, upper = torch.zeros(2, 1, 30, 40, dtype=torch.bool)
    whole[:, :20, :10] = True
    upper[:, :12, :10] = True  # IoU .6
    values = compute_metrics(
        COCOScores(1, ["cat"], masks=True), [preds | {"masks": upper}], [target | {"masks": whole}]
    )
    assert values["mAP"] == values["mask_AP50"] == 1
    assert values["mask_mAP"] == values["mask_AP/cat"] == pytest.approx(0.3)  # at .5, .55 and .6
    assert set(values) == {f"{prefix}{name}" for prefix in ("", "mask_") for name in (*STATS, "AP/cat")}


def test_coco_names_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UsageError, match="pip install faster-coco-eval"):
        COCOScores(2)


# --- both -------------------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("kind", [COCOScores, VOCScores])


@BOTH
def test_perfect_detections_score_one(kind: type[DetectionScores]) -> None:
    _, target = random_set(10, 4, optional=None)
    preds = [image | {"scores": torch.rand(len(image["labels"]))} for image in target]
    values = compute_metrics(kind(4), preds, target)
    wholes = {name: value for name, value in values.items() if "AR" not in name and not name.endswith("/4")}
    assert wholes == dict.fromkeys(wholes, pytest.approx(1))


@BOTH
@pytest.mark.parametrize("batches", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metrics_without_objects_are_nan(kind: type[DetectionScores], batches: int) -> None:
    scores = kind(2)
    for _ in range(batches):
        scores.update([found(), found((0, 0, 9, 9, 1, 0.9))], [truth(), truth()])
    assert all(value.isnan() for value in scores.compute().values())


@BOTH
def test_metrics_without_detections_are_zero(kind: type[DetectionScores]) -> None:
    values = compute_metrics(kind(2), [found(), found()], [truth((0, 0, 10, 10, 1)), truth()])
    assert {value for name, value in values.items() if name in {"mAP", "AR100", "VOC_AP50", "VOC07_AP50"}} == {0}


@BOTH
def test_metrics_print_nothing(kind: type[DetectionScores], capfd: pytest.CaptureFixture[str]) -> None:
    many = found(*[(0, 0, 10 + i, 10, 1, 0.5) for i in range(150)])
    compute_metrics(kind(2), [many], [truth((0, 0, 10, 10, 1))])
    assert capfd.readouterr() == ("", "")


@BOTH
def test_reset_clears_state(kind: type[DetectionScores]) -> None:
    scores, (preds, target) = kind(4), random_set(10, 4)
    first = compute_metrics(scores, preds, target)
    scores.reset()
    np.testing.assert_equal(compute_metrics(scores, preds, target), first)


@BOTH
def test_wrong_number_of_names_raises(kind: type[DetectionScores]) -> None:
    with pytest.raises(UsageError, match=r"model.num_classes names, 3, got 2"):
        kind(3, ["cat", "dog"])


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, 50])
def test_invalid_threshold_raises(threshold: float) -> None:
    with pytest.raises(UsageError, match="iou_threshold"):
        VOCScores(3, iou_threshold=threshold)


@BOTH
def test_labels_are_exact_in_half_precision(kind: type[DetectionScores]) -> None:
    """Check the labels 256 and 257, which are equal in bfloat16."""
    target = [truth((0, 0, 16, 16, 256), (0, 0, 16, 16, 257))]
    preds = {"boxes": torch.tensor([[0, 0, 16, 16]] * 2).bfloat16(), "labels": torch.tensor([256, 257])}
    values = compute_metrics(kind(300), [preds | {"scores": torch.tensor([0.5, 0.5]).bfloat16()}], target)
    assert 1 in {values.get("mAP"), values.get("VOC_AP50")}


def test_metrics_work_in_one_collection() -> None:
    preds, target = map(with_masks, random_set(10, 4))
    collection = MetricCollection([COCOScores(4, masks=True), VOCScores(4)]).clone(prefix="val/")
    alone = compute_metrics(COCOScores(4, masks=True), preds, target) | compute_metrics(VOCScores(4), preds, target)
    for _ in range(2):
        for start in range(0, 10, 4):
            collection.update(preds[start : start + 4], target[start : start + 4])
        values = {name.removeprefix("val/"): value.item() for name, value in collection.compute().items()}
        np.testing.assert_equal(values, alone)
        collection.reset()


def test_metrics_of_different_thresholds_share_a_collection() -> None:
    """Check the state, which torchmetrics shares between metrics of equal state: it must not depend on the threshold."""
    preds, target = random_set(20, 4)
    collection = MetricCollection({"low": VOCScores(4), "high": VOCScores(4, iou_threshold=0.75)})
    collection.update(preds[:1], target[:1])
    collection.update(preds[1:], target[1:])
    alone = compute_metrics(VOCScores(4, iou_threshold=0.75), preds, target)
    assert collection.compute()["VOC_AP75"].item() == alone["VOC_AP75"] < collection.compute()["VOC_AP50"].item()


def test_boxes_stay_in_cpu_memory() -> None:
    """Check after a move of the module to another device, here meta."""
    scores = COCOScores(4, masks=True)
    scores.update(*map(with_masks, random_set(6, 4)))
    scores.to("meta")
    assert scores.device.type == "meta"
    assert {rows.device.type for rows in scores.detections + scores.truths} == {"cpu"}
    assert scores.compute()["mAP"].device.type == "meta"  # on the device, to be reduced over ranks


def test_merged_states_equal_whole_set() -> None:
    preds, target = random_set(15, 4)
    whole, part, other = VOCScores(4), VOCScores(4), VOCScores(4)
    whole.update(preds, target)
    part.update(preds[:4], target[:4])
    other.update(preds[4:], target[4:])
    part.merge_state(other)
    np.testing.assert_equal(
        {name: value.item() for name, value in part.compute().items()},
        {name: value.item() for name, value in whole.compute().items()},
    )


def compute_on_rank(rank: int, folder: Path) -> list[dict[str, float]]:
    """Evaluate one of two ranks on its share of images, then with all images on the first rank."""
    preds, target = map(with_masks, random_set(41, 4))
    collection = MetricCollection([COCOScores(4, masks=True), VOCScores(4)], compute_groups=False)
    results = []
    for mine in (range(rank, 41, 2), range(41) if rank == 0 else ()):
        for index in mine:
            collection.update([preds[index]], [target[index]])
        results.append({name: value.item() for name, value in collection.compute().items()})
        collection.reset()
    return results


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Check gathering with uneven ranks, empty images and a rank without images."""
    preds, target = map(with_masks, random_set(41, 4))
    alone = compute_metrics(COCOScores(4, masks=True), preds, target) | compute_metrics(VOCScores(4), preds, target)
    for results in on_two_ranks(compute_on_rank, tmp_path):
        for values in results:
            np.testing.assert_equal(values, alone)
