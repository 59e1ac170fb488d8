"""Figure of the worst images, and the table of predictions."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from PIL import Image
from torch import Tensor, nn

from darkroom.callbacks.loggers.classification.worst_images import ClassificationLogger
from darkroom.callbacks.writers.classification_writer import ClassificationWriter
from darkroom.datamodules.images.image_folder import ImageFolder
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import ImageClassifier
from tests.contracts.module import trainer
from tests.fakes.labelled import image_folder


class Redness(nn.Module):
    """Logits by the mean colour of an image: red, green, blue, and five that are never chosen."""

    def __init__(self, num_classes: int = 8) -> None:
        super().__init__()
        self.maps, self.num_classes = nn.Conv2d(3, 3, 1), num_classes

    def forward(self, x: Tensor) -> Tensor:
        logits = self.maps(x).mean((2, 3))
        return torch.cat([logits, logits.new_full((len(x), self.num_classes - 3), -9.0)], 1)


def shapes(**kwargs: Any) -> ShapesImages:
    sizes = {"train_size": 4, "val_size": 12, "test_size": 5, "side": 32, "eval_batch_size": 5, "num_workers": 0}
    return ShapesImages(**{**sizes, "label": "colour", **kwargs})


@pytest.mark.parametrize("grad_cam", [True, False])
def test_worst_images_come_first(tmp_path: Path, grad_cam: bool) -> None:
    torch.manual_seed(0)
    model, data = ImageClassifier(Redness(), num_classes=8), shapes()
    logger, seen = ClassificationLogger(num_samples=3, grad_cam=grad_cam), []
    all_losses: list[float] = []
    evaluate = model.validation_step

    def step(batch: dict[str, Any], batch_idx: int) -> Any:
        outputs = evaluate(batch, batch_idx)
        all_losses.extend(outputs["losses"].tolist())
        return outputs

    vars(model)["validation_step"] = step
    publish = logger.publish
    vars(logger)["publish"] = lambda *args: (seen.append(args[1:]), publish(*args))
    collected: list[float] = []
    log = logger.log_figures

    def note(*args: Any) -> None:
        collected.extend(one.loss for one in logger._worst)
        log(*args)

    vars(logger)["log_figures"] = note
    trainer(tmp_path, callbacks=[logger]).validate(model, data, verbose=False)
    assert collected == pytest.approx(sorted(all_losses, reverse=True)[:3])
    ((what, figure, wandb),) = seen
    assert what == "val_worst"
    assert len(wandb["images"]) == 3
    assert all(caption.startswith("true: ") for caption in wandb["caption"])
    (path,) = tmp_path.rglob("figures/val_worst/*.png")
    assert Image.open(path).size == (figure.width, figure.height)


class Other(LightningModule):
    """Module of another task."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.zeros(len(batch["image"]), 3)


def test_callbacks_name_the_methods_that_they_support(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="ClassificationLogger needs explain of the module.*use it with ImageClassifier"
    ):
        trainer(tmp_path, callbacks=[ClassificationLogger()]).validate(Other(), shapes(), verbose=False)
    with pytest.raises(UsageError, match="must return a dict with 'probabilities'"):
        trainer(tmp_path, callbacks=[ClassificationLogger(grad_cam=False)]).validate(Other(), shapes(), verbose=False)
    with pytest.raises(UsageError, match=r"must return probabilities \(5, 8\); use the callback with ImageClassifier"):
        trainer(tmp_path, callbacks=[ClassificationWriter()]).predict(Other(), shapes())
    with pytest.raises(UsageError, match="ClassificationWriter.top must be at least 1, got 0"):
        ClassificationWriter(top=0)


def test_logger_needs_no_explanations_to_predict(tmp_path: Path) -> None:
    """A model of an exported file has none, and predict makes no figure."""
    trainer(tmp_path, callbacks=[ClassificationLogger(grad_cam=True)]).predict(Other(), shapes())


def rows_of(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.rglob("predictions/predictions.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_written_with_paths_and_probabilities(tmp_path: Path) -> None:
    data = ImageFolder(
        root=str(image_folder(tmp_path / "data")), size=16, num_workers=0, test_fraction=0.3, eval_batch_size=4
    )
    model = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), num_classes=2)
    predicted = trainer(tmp_path, callbacks=[ClassificationWriter()]).predict(model, data)
    probabilities = torch.cat(predicted)
    rows, files = rows_of(tmp_path), data.dataset("predict").paths
    assert len(rows) == len(files) == len(probabilities)
    by_path = {row["path"]: row for row in rows}
    for path, values in zip(files, probabilities, strict=True):
        row = by_path[path.relative_to(data.root).as_posix()]
        order = values.argsort(descending=True)
        assert [row["class"], row["class_2"]] == [data.class_names[i] for i in order[:2]]
        assert float(row["probability"]) == pytest.approx(values.max().item(), abs=1e-4)
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2"]


def test_images_without_files_are_numbered(tmp_path: Path) -> None:
    model = ImageClassifier(Redness(), num_classes=8)
    trainer(tmp_path, callbacks=[ClassificationWriter()]).predict(model, shapes())
    rows = rows_of(tmp_path)
    assert [row["path"] for row in rows] == [f"{number:06d}" for number in range(5)]
    assert {"class_5", "probability_5"} <= rows[0].keys()
