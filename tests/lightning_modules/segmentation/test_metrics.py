"""SegmentationScores against torchmetrics and by hand."""

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from lightning_modules.segmentation import SegmentationScores


def test_by_hand() -> None:
    scores = SegmentationScores(3, class_names=("sky", "sea", "ship"))
    truth = torch.tensor([[[0, 0, 0, 1], [1, 1, 255, 255]]])
    preds = torch.tensor([[[0, 0, 1, 1], [1, 0, 2, 0]]])
    scores.update(preds, truth)
    values = {name: value.item() for name, value in scores.compute().items()}
    assert values["IoU/sky"] == pytest.approx(2 / 4)
    assert values["IoU/sea"] == pytest.approx(2 / 4)
    assert values["IoU/ship"] != values["IoU/ship"]  # nan: it occurs nowhere that counts
    assert values["mIoU"] == pytest.approx(1 / 2)
    assert values["Dice"] == pytest.approx(2 / 3)
    assert values["pixel_accuracy"] == pytest.approx(4 / 6)


def test_over_the_set_not_the_mean_over_batches() -> None:
    torch.manual_seed(0)
    ours, theirs = SegmentationScores(5), MulticlassJaccardIndex(5, average="macro", ignore_index=255)
    for size in (8, 24, 3):
        preds, truth = torch.randint(0, 5, (2, size, size)), torch.randint(0, 4, (2, size, size))
        truth[0, 0] = 255
        for metric in (ours, theirs):
            metric.update(preds, truth)
    assert ours.compute()["mIoU"].item() == pytest.approx(theirs.compute().item())


def test_all_background_scores_no_better_than_it_is() -> None:
    truth = torch.zeros(1, 10, 10, dtype=torch.long)
    truth[0, :2] = 1
    scores = SegmentationScores(2)
    scores.update(torch.zeros_like(truth), truth)
    assert scores.compute()["Dice"].item() == pytest.approx((2 * 80 / 180 + 0) / 2)


def test_ranks_add_up() -> None:
    torch.manual_seed(0)
    whole, parts = SegmentationScores(3), [SegmentationScores(3), SegmentationScores(3)]
    for part in parts:
        preds, truth = torch.randint(0, 3, (2, 8, 8)), torch.randint(0, 3, (2, 8, 8))
        part.update(preds, truth)
        whole.update(preds, truth)
    assert torch.equal(parts[0].confusion + parts[1].confusion, whole.confusion)
    assert whole._reductions["confusion"].__name__ == "dim_zero_sum"
