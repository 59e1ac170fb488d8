"""ObjectDetection: custom networks with torchvision's interface, and the behaviour shared by all detectors."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection import SSD, YOLO, ObjectDetection
from tests.contracts.detection import DetectionContract
from tests.contracts.module import trainer


def torchvision_network() -> FasterRCNN:
    """Build torchvision's Faster R-CNN with a body of three convolutions and batch norm."""
    channels = [3, 16, 32, 32]
    layers = [[nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()] for a, b in pairwise(channels)]
    body = nn.Sequential(*[layer for block in layers for layer in block])
    body.out_channels = 32
    return FasterRCNN(
        body,
        min_size=64,
        max_size=128,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        box_batch_size_per_image=64,
        rpn_anchor_generator=AnchorGenerator(((12, 20, 32),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(32 * 25, 64), nn.ReLU()),
        box_predictor=_Predictor(),
    )


class _Predictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score, self.offsets = nn.Linear(64, 6), nn.Linear(64, 24)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.score(x), self.offsets(x)


class TestAnyNetwork(DetectionContract):
    steps, overfit_ap, lr = 60, 0.8, 3e-3
    refuses = "longer side must be at most 128 times the shorter one"

    def build(self, **kwargs: Any) -> ObjectDetection:
        network = torchvision_network()
        return ObjectDetection(network, num_classes=5, **kwargs)


def tiny() -> YOLO:
    return YOLO(num_classes=5, preset="tiny", width=0.1, image_size=128, grid=3)


def test_validation_loss_ignores_crowds_and_difficult_objects(tmp_path: Any) -> None:
    contract = TestAnyNetwork()
    batch, model = contract.batch(), tiny()
    fitting = trainer(tmp_path, limit_train_batches=0)
    model.trainer = fitting
    fitting.strategy.connect(model)
    model.setup("fit")
    model.eval()
    logged: list[dict] = []
    model.log_dict = lambda values, **kwargs: logged.append(values)
    with torch.no_grad():
        model.validation_step(batch, 0)
        for flag in ("iscrowd", "difficult"):
            more = [dict(target) for target in batch["target"]]
            for target in more:
                count = len(target["labels"])
                target["boxes"] = torch.cat([target["boxes"], torch.tensor([[1.0, 1, 50, 60]])])
                target["labels"] = torch.cat([target["labels"], torch.tensor([2])])
                target[flag] = torch.arange(count + 1) == count
            model.validation_step({**batch, "target": more}, 0)
    assert logged[0] == logged[1] == logged[2]


def test_masks_of_other_size_raise() -> None:
    batch = TestAnyNetwork().batch(masks=True)
    batch["target"][1]["masks"] = batch["target"][1]["masks"][..., :10]
    with pytest.raises(UsageError, match="image 1 of the batch is .64, 64. .* its masks are"):
        tiny().training_step(batch, 0)


def test_uint8_images_raise() -> None:
    batch = TestAnyNetwork().batch()
    batch["image"] = [(255 * image).byte() for image in batch["image"]]
    with pytest.raises(UsageError, match="uint8 images reached the network"):
        tiny().training_step(batch, 0)


def test_missing_num_classes_raises() -> None:
    with pytest.raises(UsageError, match="model.num_classes must be .*got None"):
        ObjectDetection(torchvision_network())


def test_boxes_are_checked_before_they_are_copied_to_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values on a device are not read, as the step would wait for it; tensors without values stand for it."""
    model = SSD(num_classes=5, width=0.1, norm="batch")
    target = {"boxes": torch.tensor([[5.0, 5, 99, 9]]), "labels": torch.tensor([1])}
    batch = {"image": [torch.zeros(3, 32, 32)], "target": [target]}
    assert model.on_before_batch_transfer(batch, 0) is batch  # the step checks them itself
    with pytest.raises(UsageError, match="reaches out"):
        model.check(batch)
    monkeypatch.setattr(SSD, "device", torch.device("cuda"))
    with pytest.raises(UsageError, match="box 0 of image 0 .*reaches out"):
        model.on_before_batch_transfer(batch, 0)
    model.check({"image": batch["image"], "target": [{name: value.to("meta") for name, value in target.items()}]})
    for boxes, labels in ((torch.zeros(2, 5), torch.ones(2)), (torch.zeros(4), torch.ones(1))):
        with pytest.raises(UsageError, match=r"image 0 of the batch has boxes .*must be \(N, 4\)"):
            model.on_before_batch_transfer({**batch, "target": [{"boxes": boxes, "labels": labels}]}, 0)
    with pytest.raises(UsageError, match="1 images and 2 targets"):
        model.on_before_batch_transfer({**batch, "target": [target, target]}, 0)
