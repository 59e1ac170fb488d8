"""SemanticSegmentation with custom networks and losses."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation import BorderWeighted, CrossEntropy, PerImageScores, SemanticSegmentation
from darkroom.lightning_modules.segmentation.base import most_likely
from tests.contracts.module import SegmentationContract, trainer
from tests.fakes.parts import TinyNetwork, TwoTerms


class TestAnyNetwork(SegmentationContract):
    steps = 80

    def build(self, **kwargs: Any) -> SemanticSegmentation:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 5, 1, 2), nn.ReLU(), nn.Conv2d(32, 6, 5, 1, 2)
        return SemanticSegmentation(nn.Sequential(*layers), num_classes=6, **kwargs)


class TorchvisionStyle(nn.Module):
    """Network that returns a dict with a map at stride 8, as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 8, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return OrderedDict(out=self.layer(x))


def test_dict_outputs_and_smaller_maps_are_resized_to_input() -> None:
    model = SemanticSegmentation(TorchvisionStyle(), num_classes=6)
    assert model(torch.randn(2, 3, 40, 48)).shape == (2, 6, 40, 48)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_most_likely_class_is_argmax_with_ties_and_nan(layout: torch.memory_format, dtype: torch.dtype) -> None:
    logits = torch.randint(-2, 3, (2, 5, 33, 40)).to(dtype).to(memory_format=layout)  # most pixels have a tie
    logits[0, 2, 3, 4] = float("nan")
    logits[1, :, 5] = float("nan")
    assert torch.equal(most_likely(logits), logits.argmax(1))
    cropped = logits[..., 4:-9, 7:-3]
    assert torch.equal(most_likely(cropped), cropped.argmax(1))
    for classes in (1, 255, 256, 300):
        many = torch.randint(-2, 3, (1, classes, 3, 4)).to(dtype).to(memory_format=layout)
        many[:, -1] = float("inf")
        many[:, 0, 0] = float("-inf")
        assert torch.equal(most_likely(many), many.argmax(1))


def test_every_loss_term_is_logged(tmp_path: Path) -> None:
    model = SemanticSegmentation(TinyNetwork(6), num_classes=6, loss=TwoTerms())
    fitting = trainer(tmp_path, log_every_n_steps=1)
    fitting.fit(model, ShapesSegmentation(train_size=4, val_size=4, batch_size=4, num_workers=0, side=32))
    metrics = fitting.callback_metrics
    for stage in ("train", "val"):
        assert {f"{stage}/cross_entropy", f"{stage}/size"} <= metrics.keys()
        parts = metrics[f"{stage}/cross_entropy"] + metrics[f"{stage}/size"]
        assert metrics[f"{stage}/loss"].item() == pytest.approx(parts.item(), rel=1e-5)


def test_uint8_images_raise() -> None:
    model = SemanticSegmentation(TinyNetwork(6), num_classes=6)
    with pytest.raises(UsageError, match="on_after_batch_transfer"):
        model(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_wrong_number_of_output_channels_raises() -> None:
    with pytest.raises(UsageError, match="5 output channels for 6 classes"):
        SemanticSegmentation(TinyNetwork(5), num_classes=6)(torch.randn(1, 3, 8, 8))


def test_missing_num_classes_raises() -> None:
    with pytest.raises(UsageError, match="num_classes must be .*got None"):
        SemanticSegmentation(TinyNetwork(6))


def test_different_ignore_index_of_loss_raises() -> None:
    with pytest.raises(UsageError, match="model.ignore_index must be that of model.loss, 0"):
        SemanticSegmentation(TinyNetwork(6), num_classes=6, loss=CrossEntropy(ignore_index=0))


def test_overridden_batch_transfer_raises(tmp_path: Path) -> None:
    class CustomTransfer(SemanticSegmentation):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

    data = ShapesSegmentation(train_size=4, val_size=4, batch_size=4, num_workers=0, side=32)
    with pytest.raises(UsageError, match="CustomTransfer overrides on_after_batch_transfer"):
        trainer(tmp_path).fit(CustomTransfer(TinyNetwork(6), num_classes=6), data)


class WithAuxiliaryHead(nn.Module):
    """Network with a second head in training, as torchvision's with aux_loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.layer(x), "aux": self.layer(x[..., ::2, ::2])} if self.training else {"out": self.layer(x)}


def test_auxiliary_head_is_trained(tmp_path: Path) -> None:
    model = SemanticSegmentation(WithAuxiliaryHead(), num_classes=6, aux_weight=0.25)
    fitting = trainer(tmp_path, log_every_n_steps=1, max_steps=1)
    fitting.fit(model, ShapesSegmentation(train_size=4, val_size=4, batch_size=4, num_workers=0, side=32))
    assert 0 < fitting.callback_metrics["train/aux"] < 0.4 * fitting.callback_metrics["train/loss"]
    assert "val/aux" not in fitting.callback_metrics


def test_additional_metrics_are_logged(tmp_path: Path) -> None:
    model = SemanticSegmentation(TinyNetwork(6), num_classes=6, metrics=[PerImageScores()])
    fitting = trainer(tmp_path)
    fitting.fit(model, ShapesSegmentation(train_size=4, val_size=4, batch_size=4, num_workers=0, side=32))
    assert {
        "val/image_IoU",
        "val/image_Dice",
        "val/image_pixel_accuracy",
        "val/mIoU",
    } <= fitting.callback_metrics.keys()


def test_duplicate_metrics_raise() -> None:
    with pytest.raises(UsageError, match="model.metrics must be of different classes"):
        SemanticSegmentation(TinyNetwork(6), num_classes=6, metrics=[PerImageScores(1), PerImageScores(2)])


def test_missing_input_of_loss_names_option(tmp_path: Path) -> None:
    data = {"train_size": 4, "val_size": 4, "batch_size": 4, "num_workers": 0, "side": 32}
    model = SemanticSegmentation(TinyNetwork(6), num_classes=6, loss=BorderWeighted())
    with pytest.raises(UsageError, match=r"BorderWeighted needs batch\['border'\].*set data.borders to true"):
        trainer(tmp_path).fit(model, ShapesSegmentation(**data))
    trainer(tmp_path).fit(model, ShapesSegmentation(**data, borders=True))
