"""ClassificationScores: definitions, against torchmetrics, and classes that never occur."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from darkroom.lightning_modules.classification import ClassificationScores
from darkroom.lightning_modules.classification.metrics import PER_CLASS_LIMIT


def test_scores_match_torchmetrics_over_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(60, 7, generator=generator)
    label = torch.randint(7, (60,), generator=generator)
    metric = ClassificationScores(7)
    for some, truth in zip(scores.split(23), label.split(23), strict=True):
        metric.update(some, truth)
    values = metric.compute()
    torch.testing.assert_close(values["accuracy"], multiclass_accuracy(scores, label, 7, "micro"))
    torch.testing.assert_close(values["mean_accuracy"], multiclass_accuracy(scores, label, 7, "macro"))
    torch.testing.assert_close(values["top5_accuracy"], multiclass_accuracy(scores, label, 7, "micro", top_k=5))
    assert metric.confusion.sum() == 60
    assert metric.confusion[label[0], scores[0].argmax()] >= 1


def test_class_without_images_is_left_out_of_the_mean() -> None:
    metric = ClassificationScores(3, ["a", "b", "c"])
    metric.update(torch.eye(3)[[0, 1, 2]], torch.tensor([0, 0, 0]))
    values = metric.compute()
    assert values["mean_accuracy"] == values["accuracy/a"] == pytest.approx(1 / 3)
    assert values["accuracy/b"].isnan()


@pytest.mark.parametrize(("classes", "top5"), [(5, False), (6, True)])
def test_top5_needs_more_than_five_classes(classes: int, top5: bool) -> None:
    metric = ClassificationScores(classes)
    metric.update(torch.randn(2, classes), torch.tensor([0, 1]))
    assert ("top5_accuracy" in metric.compute()) == top5


def test_accuracies_of_many_classes_are_not_listed() -> None:
    metric = ClassificationScores(PER_CLASS_LIMIT + 1)
    metric.update(torch.randn(2, PER_CLASS_LIMIT + 1), torch.tensor([0, 1]))
    assert set(metric.compute()) == {"accuracy", "mean_accuracy", "top5_accuracy"}
