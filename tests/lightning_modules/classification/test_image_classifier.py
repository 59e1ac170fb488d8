"""ImageClassifier: networks, label smoothing, mixup, CutMix and EMA."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.layers.ema import EMAOptions
from tests.contracts.classification import ClassificationContract
from tests.contracts.module import trainer


class TestBackbone(ClassificationContract):
    compile_backend = "inductor"
    compile_mode = "max-autotune"

    def build(self, **kwargs: Any) -> ImageClassifier:
        torch.manual_seed(0)
        network = BackboneClassifier("vgg11_bn", 8, (3, 32, 32), width=0.06)
        return ImageClassifier(network, num_classes=8, **kwargs)


class TestYOLOFeaturesWithEMA(ClassificationContract):
    def build(self, **kwargs: Any) -> ImageClassifier:
        torch.manual_seed(0)
        network = BackboneClassifier("yolo_tiny", 8, (3, 32, 32), width=0.06)
        return ImageClassifier(network, num_classes=8, ema=EMAOptions(0.9), **kwargs)


class TestTorchvision(ClassificationContract):
    side = 16
    overfit_loss = 0.5
    lr = 3e-3

    def build(self, **kwargs: Any) -> ImageClassifier:
        torch.manual_seed(0)
        network = torchvision.models.MobileNetV2(num_classes=8, width_mult=0.1, dropout=0.0)
        return ImageClassifier(network, num_classes=8, **kwargs)


class Logits(nn.Module):
    """Returns its parameter as the logits of every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1) + 0 * x.mean()


class Seen(nn.Module):
    """Records its inputs."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight, self.num_classes = nn.Parameter(torch.zeros(1)), num_classes

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach()
        return torch.arange(self.num_classes).expand(len(x), -1) + self.weight


def train(model: ImageClassifier, image: Tensor, label: list[int]) -> dict[str, Tensor]:
    """Return the terms that a training step logs, without a Trainer."""
    logged: dict[str, Tensor] = {}
    vars(model)["log_loss"] = logged.update
    model.training_step({"image": image, "label": torch.tensor(label)}, 0)
    return {name: value.detach() for name, value in logged.items()}


def test_label_smoothing_matches_definition() -> None:
    logits = [1.0, 3.0, -1.0]
    terms = train(ImageClassifier(Logits(logits), 3, label_smoothing=0.3), torch.zeros(1, 3, 4, 4), [1])
    target = torch.tensor([0.1, 0.7 + 0.1, 0.1])
    expected = -(target * torch.tensor(logits).log_softmax(0)).sum()
    torch.testing.assert_close(terms["loss"], expected)


def test_evaluation_has_no_label_smoothing_and_no_mixing(tmp_path: Path) -> None:
    model = ImageClassifier(Logits([0.0, 1.0]), 2, label_smoothing=0.3, mixup=1.0, cutmix=1.0).eval()
    model.trainer = trainer(tmp_path)
    model.setup("validate")
    vars(model)["log_evaluation"] = lambda values, samples: None
    outputs = model.validation_step({"image": torch.randn(2, 3, 4, 4), "label": torch.tensor([0, 1])}, 0)
    torch.testing.assert_close(outputs["losses"], torch.tensor([1 + math.e, 1 + 1 / math.e]).log())


def test_mixup_mixes_images_and_targets_by_one_weight() -> None:
    network = Seen(3)
    image = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    terms = train(ImageClassifier(network, 3, mixup=1.0), image, [0, 2])
    first, second = network.seen[:, 0, 0, 0]
    assert 0 < first < 1
    torch.testing.assert_close(first + second, torch.tensor(1.0))  # weight lambda and 1 - lambda
    targets = torch.tensor([[1 - first, 0, first], [first, 0, 1 - first]])
    expected = F.cross_entropy(torch.arange(3.0).expand(2, -1), targets)
    torch.testing.assert_close(terms["loss"], expected)
    assert "accuracy" not in terms


def test_cutmix_replaces_rectangle_and_mixes_targets_by_its_area() -> None:
    network = Seen(2)
    image = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    torch.manual_seed(3)
    terms = train(ImageClassifier(network, 2, cutmix=1.0), image, [0, 1])
    area = network.seen[0].mean()  # fraction that the other image replaces
    assert 0 < area < 1
    assert set(network.seen.unique().tolist()) == {0.0, 1.0}
    targets = torch.tensor([[1 - area, area], [area, 1 - area]])
    torch.testing.assert_close(terms["loss"], F.cross_entropy(torch.arange(2.0).expand(2, -1), targets))


def test_evaluation_uses_ema_weights(tmp_path: Path) -> None:
    model = ImageClassifier(Logits([0.0, 0.0]), 2, ema=EMAOptions(0.9))
    with torch.no_grad():
        model.network.logits += torch.tensor([5.0, 0.0])
    image = torch.zeros(1, 3, 4, 4)
    assert model.train()(image)[0].tolist() == [5.0, 0.0]
    assert model.eval()(image)[0].tolist() == [0.0, 0.0]
    model.ema.update(model.network)
    assert model(image)[0, 0] > 0


def test_wrong_number_of_outputs_raises_and_names_remedy() -> None:
    model = ImageClassifier(Logits([0.0, 0.0]), 3)
    with pytest.raises(UsageError, match=r"Logits must return logits \(1, 3\).*got \(1, 2\).*model.network.init_args"):
        model(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": None}, "model.num_classes must be at least 2, got None; the data must have labels"),
        ({"num_classes": 0}, "model.num_classes must be at least 2, got 0"),
        ({"label_smoothing": 1.0}, r"model.label_smoothing must be in \[0, 1\), got 1.0"),
        ({"mixup": -1.0}, "model.mixup must be 0"),
        ({"cutmix": -0.5}, "model.cutmix must be 0"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageClassifier(**{"network": Logits([0.0, 0.0]), "num_classes": 2, **arguments})
