"""SSD: default boxes, matching, hard negatives and layers of the paper."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.ops import box_iou

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection import ssd
from darkroom.lightning_modules.detection.boxes import encode
from darkroom.lightning_modules.detection.ssd import (
    SSD,
    L2Norm,
    SSDNetwork,
    assign,
    box_sizes,
    clip_sides,
    select_hard_negatives,
    ssd_loss,
)
from tests.contracts.detection import DetectionContract
from tests.contracts.module import trainer

SMALL = {"num_classes": 5, "image_size": 64, "backbone": "resnet18", "width": 0.25, "sizes": [10, 16, 24, 36, 50]}


class TestSSD(DetectionContract):
    steps = 50

    def build(self, **kwargs: Any) -> SSD:
        torch.manual_seed(0)
        return SSD(**{**SMALL, **kwargs})

    def test_efficientnet_lite_trains_and_detects(self) -> None:
        self.assert_trains_one_step_and_detects(self.build(backbone="efficientnet_lite0", width=0.1))

    def test_losses_and_detections_share_one_forward_pass(self) -> None:
        model, batch, calls = self.build(norm="frozen").eval(), self.batch(), []
        losses, plain = model.train().loss_terms(batch), model.eval().detect(batch)
        model.network.body.register_forward_hook(lambda *_: calls.append(1))
        same, found = model.evaluate(batch)
        assert len(calls) == 1
        assert losses.keys() == same.keys() == {"box", "class"}
        assert all(torch.equal(losses[name], same[name]) for name in same)
        assert all(torch.equal(one["boxes"], other["boxes"]) for one, other in zip(found, plain, strict=True))


class TestSSDOnVGG(TestSSD):
    test_overfits_one_batch = None
    test_efficientnet_lite_trains_and_detects = None

    def build(self, **kwargs: Any) -> SSD:
        return super().build(**{"backbone": "vgg11_bn", "width": 0.1, "sizes": "voc", **kwargs})


# --- default boxes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "maps", "per_cell"),
    [
        (300, [38, 19, 10, 5, 3, 1], [4, 6, 6, 6, 4, 4]),
        (512, [64, 32, 16, 8, 4, 2, 1], [4, 6, 6, 6, 6, 4, 4]),
    ],
)
def test_map_sizes_and_number_of_default_boxes_match_paper(side: int, maps: list[int], per_cell: list[int]) -> None:
    with torch.device("meta"):
        network = SSDNetwork(20, image_size=side)
        seen = []
        for part in (network.rescale, network.fc, *network.extra):
            part.register_forward_hook(lambda _module, _given, made: seen.append(made.shape[-1]))
        offsets, logits = network(torch.empty(1, 3, side, side))
    assert sorted(seen, reverse=True) == maps
    boxes = sum(cells * side**2 for cells, side in zip(per_cell, maps, strict=True))
    assert boxes == len(network.default_boxes) == {300: 8732, 512: 24564}[side]
    assert offsets.shape == (1, boxes, 4)
    assert logits.shape == (1, boxes, 21)


@pytest.mark.parametrize(
    ("data", "side", "sizes"),
    [
        ("voc", 300, [30, 60, 111, 162, 213, 264, 315]),
        ("coco", 300, [21, 45, 99, 153, 207, 261, 315]),
        ("voc", 512, [35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6]),
        ("coco", 512, [20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72]),
    ],
)
def test_box_sizes_match_authors_code(data: Any, side: int, sizes: list[float]) -> None:
    assert [part * side for part in box_sizes(data, len(sizes) - 1)] == pytest.approx(sizes)


def test_default_boxes_of_a_cell_match_paper() -> None:
    """Check two squares, the larger one of the geometric mean size, and ratios 2 and 1/2; centres 8 pixels apart."""
    with torch.device("meta"):
        boxes = SSDNetwork(20).default_boxes
    first = boxes[:4]
    torch.testing.assert_close((first[:, :2] + first[:, 2:]) / 2, torch.full((4, 2), 4.0))
    root = 2**0.5
    expected = [[30, 30], [1800**0.5] * 2, [30 * root, 30 / root], [30 / root, 30 * root]]
    torch.testing.assert_close(first[:, 2:] - first[:, :2], torch.tensor(expected))
    torch.testing.assert_close(boxes[4, :2] - boxes[0, :2], torch.tensor([8.0, 0]))


# --- matching and loss ------------------------------------------------------------------------------------------------


def test_every_object_gets_a_default_box_and_others_above_iou_one_half() -> None:
    default_boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40], [50, 50, 60, 60]])
    truth = torch.tensor([[0.0, 0, 10, 10], [38, 38, 48, 48]])
    assert box_iou(truth[1:], default_boxes).max() < 0.1
    assert assign(default_boxes, truth).tolist() == [0, 0, 1, -1]
    assert assign(default_boxes, truth[:0]).tolist() == [-1] * 4
    assert torch.equal(assign(default_boxes, truth), SSDMatcher(0.5)(box_iou(truth, default_boxes)))


def test_objects_with_same_best_default_box_get_separate_boxes() -> None:
    """Check that the object of higher IoU keeps the box; in torchvision the last object takes it and the other has none."""
    default_boxes = torch.tensor([[0.0, 0, 30, 30], [20, 0, 60, 30], [80, 80, 90, 90]])
    truth = torch.tensor([[1.0, 0, 30, 30], [2, 0, 30, 26]])
    assert box_iou(truth, default_boxes).argmax(1).tolist() == [0, 0]
    assert assign(default_boxes, truth).tolist() == [0, 1, -1]
    more = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 70, 70]])
    assert sorted(assign(default_boxes, more).tolist()) != [-1, -1, -1]  # more objects than default boxes


def test_hard_negatives_are_three_per_positive_of_each_image() -> None:
    torch.manual_seed(0)
    losses, positive = torch.rand(3, 40), torch.zeros(3, 40, dtype=torch.bool)
    positive[0, :5] = positive[1, 7] = True
    chosen = select_hard_negatives(losses, positive)
    assert chosen.sum(1).tolist() == [15, 3, 0]
    assert not (chosen & positive).any()
    for row in (0, 1):
        rest = losses[row].masked_fill(positive[row], -1)
        assert rest[chosen[row]].min() >= rest[~chosen[row]].max()


def test_positives_are_not_counted_as_negatives() -> None:
    """Check more than a quarter of positive default boxes, where three negatives for each do not exist."""
    torch.manual_seed(0)
    default_boxes = torch.tensor([[20.0 * x, 0, 20.0 * x + 10, 10] for x in range(8)])
    target = {"boxes": default_boxes[:4] + 1, "labels": torch.tensor([1, 2, 1, 2])}
    assert (assign(default_boxes, target["boxes"]) >= 0).sum() == 4  # half of them
    offsets, logits = torch.randn(1, 8, 4), torch.randn(1, 8, 3)
    terms = ssd_loss(offsets, logits, default_boxes, [target])
    labels = torch.tensor([1, 2, 1, 2, 0, 0, 0, 0])
    torch.testing.assert_close(terms["class"], F.cross_entropy(logits[0], labels, reduction="sum") / 4)
    wanted = encode(target["boxes"], default_boxes[:4])
    torch.testing.assert_close(terms["box"], F.smooth_l1_loss(offsets[0, :4], wanted, reduction="sum") / 4)
    theirs = _torchvisions_loss(offsets, logits, default_boxes, [target])
    assert theirs["classification"] > terms["class"] + 0.1  # it takes eight negatives of four


def test_loss_with_few_positives_matches_torchvision() -> None:
    torch.manual_seed(0)
    default_boxes = torch.rand(60, 2) * 50
    default_boxes = torch.cat([default_boxes, default_boxes + 8], 1)
    targets = [
        {"boxes": default_boxes[[3, 40]] + 1, "labels": torch.tensor([2, 1])},
        {"boxes": default_boxes[[9]] - 1, "labels": torch.tensor([1])},
    ]
    offsets, logits = torch.randn(2, 60, 4), torch.randn(2, 60, 3)
    terms = ssd_loss(offsets, logits, default_boxes, targets)
    expected = _torchvisions_loss(offsets, logits, default_boxes, targets)
    torch.testing.assert_close(terms["class"], expected["classification"])
    torch.testing.assert_close(terms["box"], expected["bbox_regression"])


def _torchvisions_loss(offsets: Tensor, logits: Tensor, boxes: Tensor, targets: list[dict]) -> dict[str, Tensor]:
    matches = [SSDMatcher(0.5)(box_iou(target["boxes"], boxes)) for target in targets]
    outputs = {"bbox_regression": offsets, "cls_logits": logits}
    return _without_network().compute_loss(targets, outputs, [boxes] * len(targets), matches)


def _without_network() -> TorchvisionSSD:
    """Return torchvision's SSD for its loss and postprocessing only."""
    theirs = TorchvisionSSD.__new__(TorchvisionSSD)
    nn.Module.__init__(theirs)
    theirs.box_coder, theirs.neg_to_pos_ratio = BoxCoder((10.0, 10.0, 5.0, 5.0)), 3.0
    theirs.score_thresh, theirs.nms_thresh, theirs.topk_candidates, theirs.detections_per_img = 0.01, 0.45, 400, 200
    return theirs


def test_images_without_objects_have_zero_loss() -> None:
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    logits = torch.randn(2, 5, 3, requires_grad=True)
    offsets = torch.randn(2, 5, 4, requires_grad=True)
    terms = ssd_loss(offsets, logits, torch.rand(5, 4) + torch.tensor([0.0, 0, 2, 2]), [empty, empty])
    sum(terms.values()).backward()
    assert terms["box"] == terms["class"] == 0
    assert logits.grad.abs().max() == offsets.grad.abs().max() == 0


# --- layers and weights -----------------------------------------------------------------------------------------------


def test_conv4_3_is_rescaled_to_norm_20() -> None:
    map_ = L2Norm(16)(torch.randn(2, 16, 3, 3) * 7)
    torch.testing.assert_close(map_.norm(dim=1), torch.full((2, 3, 3), 20.0))
    with torch.device("meta"):
        network = SSDNetwork(20)
    assert network.rescale.weight.shape == (512,)
    assert (network.fc[1].dilation, network.fc[1].padding, network.fc[1].out_channels) == ((6, 6), (6, 6), 1024)


def test_parameter_count_matches_paper_and_state_dict_matches_torchvision() -> None:
    with torch.device("meta"):
        paper, ours = SSDNetwork(20), SSDNetwork(90, sizes="coco")
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91)
    assert sum(p.numel() for p in paper.parameters()) == 26_285_486
    state = {ssd._rename(name): value.shape for name, value in theirs.state_dict().items()}
    assert state == {name: value.shape for name, value in ours.state_dict().items()}


@pytest.fixture
def without_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the initialization of VGG16."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda weight, *_, **__: weight)


@pytest.mark.slow
def test_outputs_with_torchvision_weights_match_torchvision(without_init: None) -> None:
    """Compare in float64; torchvision takes images in [0, 255], ours divides by standard deviations."""
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3).eval().double()
    ours = SSD(2, sizes="coco").eval().double()
    torch.manual_seed(0)
    for name, value in theirs.state_dict().items():
        value.normal_(std=(2 / value[0].numel()) ** 0.5) if value.dim() > 1 else value.fill_("scale" in name)
    ours.network.load_caffe(theirs.state_dict())
    image = torch.rand(3, 240, 320, dtype=torch.float64)
    with torch.inference_mode():
        seen, _ = theirs.transform([image])
        maps = list(theirs.backbone(seen.tensors).values())
        expected, boxes = theirs.head(maps), theirs.anchor_generator(seen, maps)[0]
        offsets, logits = ours([image])
    clipped = clip_sides(ours.network.default_boxes, 300)  # as torchvision, and not as the authors
    torch.testing.assert_close(clipped, boxes, rtol=1e-6, atol=1e-4, check_dtype=False)
    ours.network.default_boxes = clipped
    torch.testing.assert_close(offsets, expected["bbox_regression"].float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, expected["cls_logits"].float(), rtol=1e-4, atol=1e-4)


def test_detections_match_torchvision() -> None:
    """Compare on equal outputs: best 400 per class, scores above .01, IoU of .45, 200 per image."""
    torch.manual_seed(0)
    model = SSD(**SMALL).eval()
    boxes = model.network.default_boxes
    offsets, logits = torch.randn(1, len(boxes), 4) * 0.3, torch.randn(1, len(boxes), 6) * 3
    model.forward = lambda images: (offsets, logits)
    (found,) = model.detect({"image": [torch.rand(3, 64, 64)]})
    theirs = _without_network()
    outputs = {"bbox_regression": offsets, "cls_logits": logits}
    (expected,) = theirs.postprocess_detections(outputs, [boxes], [(64, 64)])
    assert len(found["boxes"]) == 200
    torch.testing.assert_close(found["scores"], expected["scores"])
    torch.testing.assert_close(found["boxes"], expected["boxes"])
    assert torch.equal(found["labels"], expected["labels"])


def test_coco_weights_with_other_classes_keep_new_head(monkeypatch: pytest.MonkeyPatch, without_init: None) -> None:
    with torch.device("meta"):
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91)
    state = {name: torch.zeros(value.shape) for name, value in theirs.state_dict().items()}
    monkeypatch.setattr(ssd, "fetch_weights", lambda weights: state)
    network = SSD(5, sizes="coco", weights="coco").network
    assert network.fc[1].weight.abs().max() == network.head.regression_head.module_list[0].weight.abs().max() == 0
    assert network.head.classification_head.module_list[0].weight.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": [10, 20, 30]}, "model.sizes must be 5 ascending sizes in pixels at image_size 64"),
        ({"sizes": [10, 20, 30, 50, 40]}, "model.sizes must be .*ascending"),
        ({"image_size": 32}, "model.image_size must be at least 64 pixels, got 32"),
        ({"weights": "coco"}, "model.weights coco needs backbone vgg16, image_size 300"),
        ({"weights": "imagenet"}, "model.width must be 1 with model.weights imagenet"),
        ({"num_classes": None}, "model.num_classes must be .*got None"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SSD(**{**SMALL, **arguments})


def test_default_boxes_reach_out_of_image_as_in_authors_code() -> None:
    with torch.device("meta"):
        boxes = SSDNetwork(20, image_size=300, sizes="voc").default_boxes
    sides = boxes[-2:, 2:] - boxes[-2:, :2]
    torch.testing.assert_close(sides, torch.tensor([[373.4, 186.7], [186.7, 373.4]]), atol=0.1, rtol=0)


def tiny_ssd() -> SSD:
    return SSD(num_classes=5, backbone="resnet18", width=0.05, image_size=64)


def test_checkpoint_of_previous_version_restores_clipped_default_boxes() -> None:
    model = tiny_ssd()
    before = model.network.default_boxes
    assert (before[:, 2:] - before[:, :2]).max() > 64
    model.on_load_checkpoint({"state_dict": model.state_dict()})
    after = model.network.default_boxes
    assert (after[:, 2:] - after[:, :2]).max() == pytest.approx(64)
    torch.testing.assert_close(after[:, :2] + after[:, 2:], before[:, :2] + before[:, 2:])


def test_checkpoint_restores_its_default_boxes(tmp_path: Path) -> None:
    model, fitting = tiny_ssd(), trainer(tmp_path, max_steps=1, limit_val_batches=0)
    model.network.default_boxes -= 3
    fitting.fit(model, TestSSD().data())
    fitting.save_checkpoint(tmp_path / "it.ckpt")
    again = tiny_ssd()
    again.on_load_checkpoint(torch.load(tmp_path / "it.ckpt", weights_only=True))
    assert torch.equal(again.network.default_boxes, model.network.default_boxes)
