"""SegmentationScores and PerImageScores against torchmetrics and known examples."""

import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassJaccardIndex

from darkroom.lightning_modules.segmentation.metrics import PerImageScores, SegmentationScores


def test_metrics_match_known_example() -> None:
    scores = SegmentationScores(3, class_names=("sky", "sea", "ship"))
    truth = torch.tensor([[[0, 0, 0, 1], [1, 1, 255, 255]]])
    preds = torch.tensor([[[0, 0, 1, 1], [1, 0, 2, 0]]])
    scores.update(preds, truth)
    values = {name: value.item() for name, value in scores.compute().items()}
    assert values["IoU/sky"] == pytest.approx(2 / 4)
    assert values["IoU/sea"] == pytest.approx(2 / 4)
    assert values["IoU/ship"] != values["IoU/ship"]  # nan: no counted pixel
    assert values["mIoU"] == pytest.approx(1 / 2)
    assert values["Dice"] == pytest.approx(2 / 3)
    assert values["pixel_accuracy"] == pytest.approx(4 / 6)
    assert values["Dice/sky"] == values["Dice/sea"] == pytest.approx(2 / 3)
    assert values["accuracy/sky"] == values["accuracy/sea"] == pytest.approx(2 / 3)
    assert all(values[f"{score}/ship"] != values[f"{score}/ship"] for score in ("Dice", "accuracy"))


def test_four_metrics_of_fcn_match_known_example() -> None:
    truth = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1, 255]]])
    preds = torch.tensor([[[0, 0, 0, 0, 0, 2, 1, 0, 2]]])  # class 2 is predicted but never true; class 3 is neither
    scores = SegmentationScores(4)
    scores.update(preds, truth)
    values = {name: value.item() for name, value in scores.compute().items()}
    assert values["pixel_accuracy"] == pytest.approx(6 / 8)
    assert values["mean_accuracy"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert values["mIoU"] == pytest.approx((5 / 7 + 1 / 2 + 0) / 3)
    assert values["frequency_weighted_IoU"] == pytest.approx((6 * 5 / 7 + 2 * 1 / 2) / 8)
    assert values["Dice"] == pytest.approx((10 / 12 + 2 / 3 + 0) / 3)
    assert (values["IoU/2"], values["Dice/2"]) == (0, 0)
    assert values["accuracy/2"] != values["accuracy/2"]  # nan: no pixel has this class


def test_fully_ignored_masks_give_nan() -> None:
    scores = SegmentationScores(2)
    scores.update(torch.zeros(1, 4, 4, dtype=torch.long), torch.full((1, 4, 4), 255))
    assert all(value.isnan() for value in scores.compute().values())


def test_metrics_are_computed_over_dataset() -> None:
    torch.manual_seed(0)
    ours, theirs = SegmentationScores(5), MulticlassJaccardIndex(5, average="macro", ignore_index=255)
    for size in (8, 24, 3):
        preds, truth = torch.randint(0, 5, (2, size, size)), torch.randint(0, 4, (2, size, size))
        truth[0, 0] = 255
        for metric in (ours, theirs):
            metric.update(preds, truth)
    assert ours.compute()["mIoU"].item() == pytest.approx(theirs.compute().item())


def test_dice_of_background_prediction_includes_missed_class() -> None:
    truth = torch.zeros(1, 10, 10, dtype=torch.long)
    truth[0, :2] = 1
    scores = SegmentationScores(2)
    scores.update(torch.zeros_like(truth), truth)
    assert scores.compute()["Dice"].item() == pytest.approx((2 * 80 / 180 + 0) / 2)


def test_states_of_ranks_are_summed() -> None:
    torch.manual_seed(0)
    whole, parts = SegmentationScores(3), [SegmentationScores(3), SegmentationScores(3)]
    for part in parts:
        preds, truth = torch.randint(0, 3, (2, 8, 8)), torch.randint(0, 3, (2, 8, 8))
        part.update(preds, truth)
        whole.update(preds, truth)
    assert torch.equal(parts[0].confusion + parts[1].confusion, whole.confusion)
    assert whole._reductions["confusion"].__name__ == "dim_zero_sum"


def test_per_image_metrics_match_known_example() -> None:
    counted = torch.tensor([[1] * 6 + [0] * 4, [1] * 8 + [0] * 2])
    few = torch.tensor([[1] * 5 + [0] * 5, [0] * 10])  # at most 5 foreground pixels: pixel accuracy only
    truth = torch.cat([counted, few])[:, None]
    preds = torch.tensor([[1] * 3 + [0] * 7, [1] * 10, [0] * 10, [0] * 9 + [1]])[:, None]
    scores = PerImageScores()
    scores.update(preds, truth)
    values = {name: value.item() for name, value in scores.compute().items()}
    assert values == {
        "image_IoU": pytest.approx((3 / 6 + 8 / 10) / 2),
        "image_Dice": pytest.approx((6 / 9 + 16 / 18) / 2),
        "image_pixel_accuracy": pytest.approx((7 + 8 + 5 + 9) / 40),
    }


def test_per_image_metrics_exclude_ignored_pixels() -> None:
    truth = torch.tensor([[[1] * 6 + [0] * 2 + [255] * 2], [[255] * 10]])
    preds = torch.tensor([[[1] * 3 + [0] * 3 + [1] * 4], [[1] * 10]])
    scores = PerImageScores()
    scores.update(preds, truth)
    values = {name: value.item() for name, value in scores.compute().items()}
    assert values["image_IoU"] == pytest.approx(3 / 8)
    assert values["image_Dice"] == pytest.approx(6 / 11)
    assert values["image_pixel_accuracy"] == pytest.approx(3 / 8)  # of the only image that is not ignored


def test_per_image_metrics_support_other_foreground() -> None:
    truth, preds = torch.tensor([[[2, 2, 0, 1]]]), torch.tensor([[[2, 0, 0, 0]]])
    scores = PerImageScores(foreground=2, min_foreground=1)
    scores.update(preds, truth)
    assert scores.compute()["image_IoU"].item() == pytest.approx(1 / 2)
    assert scores.compute()["image_pixel_accuracy"].item() == pytest.approx(2 / 4)


def test_per_image_metrics_without_foreground_are_nan() -> None:
    scores = PerImageScores()
    scores.update(torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 4, 4, dtype=torch.long))
    assert scores.compute()["image_IoU"].isnan()
    assert scores.compute()["image_Dice"].isnan()
    assert scores.compute()["image_pixel_accuracy"].item() == 1


def test_per_image_metrics_do_not_depend_on_batches_or_ranks() -> None:
    preds, truth = torch.randint(0, 2, (7, 8, 8)), torch.randint(0, 2, (7, 8, 8))
    truth[3] = 0
    whole, parts = PerImageScores(), [PerImageScores(), PerImageScores()]
    whole.update(preds, truth)
    for part, images in zip(parts, (slice(0, 3), slice(3, 7)), strict=True):
        part.update(preds[images], truth[images])
    torch.testing.assert_close(parts[0].totals + parts[1].totals, whole.totals)
    assert whole._reductions["totals"].__name__ == "dim_zero_sum"


def test_metrics_work_in_one_collection() -> None:
    preds, truth = torch.randint(0, 2, (3, 8, 8)), torch.randint(0, 2, (3, 8, 8))
    scores = MetricCollection([SegmentationScores(2), PerImageScores()]).clone(prefix="val/")
    for _ in range(2):
        scores.update(preds, truth)
    assert {"val/mIoU", "val/accuracy/1", "val/image_IoU", "val/image_pixel_accuracy"} <= scores.compute().keys()


@pytest.mark.parametrize("scores", [SegmentationScores(2), PerImageScores()])
def test_update_does_not_synchronize(scores: torch.nn.Module) -> None:
    """Check with meta tensors, which have no values, so that any synchronization fails."""
    masks = torch.zeros(2, 8, 8, dtype=torch.long, device="meta")
    scores.to("meta").update(masks, masks)
