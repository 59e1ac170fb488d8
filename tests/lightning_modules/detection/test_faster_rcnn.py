"""Faster R-CNN: anchors and sizes of the papers, and losses and detections from one forward pass."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.faster_rcnn import FasterRCNN
from darkroom.lightning_modules.detection.torchvision import rcnn
from darkroom.lightning_modules.detection.torchvision.rcnn import RPNOptions
from tests.contracts.detection import DetectionContract

RPN = {"anchor_sizes": [16, 32], "samples": 64, "proposals_before_nms": (64, 32), "proposals": (32, 16)}
SMALL = {
    "num_classes": 5,
    "backbone": "resnet18",
    "width": 0.25,
    "fpn_channels": 16,
    "head_channels": 32,
    "min_side": 64,
    "max_side": 128,
    "roi_samples": 32,
    "rpn": RPN,
}


class TestFasterRCNN(DetectionContract):
    steps = 80

    def build(self, **kwargs: Any) -> FasterRCNN:
        torch.manual_seed(0)
        return FasterRCNN(**{**SMALL, **kwargs})

    def test_efficientnet_lite_trains_and_detects(self) -> None:
        self.assert_trains_one_step_and_detects(self.build(backbone="efficientnet_lite0", width=0.1))

    def test_losses_and_detections_share_one_forward_pass(self) -> None:
        """Check losses of training and detections of evaluation with frozen norms."""
        model, batch, calls = self.build(norm="frozen"), self.batch(), []
        torch.manual_seed(0)
        losses = model.train().loss_terms(batch)
        network = model.eval().network
        for name, part in (("backbone", network.backbone), ("head", network.rpn.head)):
            part.register_forward_hook(lambda *_, name=name: calls.append(name))
        with torch.inference_mode():
            same, found = model.evaluate(batch)
            assert calls == ["backbone", "head"]
            plain = model.network(batch["image"])
        assert same.keys() == losses.keys() == {"rpn_objectness", "rpn_box", "class", "box"}
        # Training has a RoIAlign of its own, equal up to rounding.
        torch.testing.assert_close(same, losses, rtol=1e-4, atol=1e-5)
        for one, other in zip(found, plain, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("boxes", "scores", "labels"))
        assert not any(module.training for module in model.network.modules())

    def test_single_map_of_paper_trains(self) -> None:
        model, batch = (
            self.build(backbone="vgg11_bn", fpn=False, rpn=RPN | {"anchor_sizes": [16, 32, 64]}),
            self.batch(),
        )
        losses = model.loss_terms(batch)
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        with torch.inference_mode():
            assert len(model.eval().detect(batch)) == 4

    def test_anchor_and_roi_samples_match_papers(self) -> None:
        """Check at most half of the anchors and a quarter of the regions as objects (section 3.1.3; Girshick 2015, 2.3)."""
        model, batch = self.build(), self.batch()
        counts = {}
        for name, part in (("rpn", model.network.rpn), ("roi", model.network.roi_heads)):
            part.fg_bg_sampler = _Counting(part.fg_bg_sampler, counts.setdefault(name, []))
        model.loss_terms(batch)
        assert [sum(count) for count in counts["rpn"]] == [64] * 4
        assert all(0 < objects <= 32 for objects, _ in counts["rpn"])
        assert all(0 < objects <= 8 and objects + others <= 32 for objects, others in counts["roi"])

    def test_boxes_are_float32_under_bf16_autocast(self) -> None:
        model, batch = self.build().eval(), self.batch()
        seen = []
        score_anchors = model.network.rpn.score_anchors
        model.network.rpn.score_anchors = lambda *given: seen.append(score_anchors(*given)) or seen[-1]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            terms, found = model.evaluate(batch)
        assert {seen[0].anchors[0].dtype, seen[0].boxes.dtype, found[0]["boxes"].dtype} == {torch.float32}
        assert {term.dtype for term in terms.values()} == {torch.float32}

    def test_losses_and_detections_match_torchvision(self) -> None:
        """Compare with equal weights and random numbers on resized images."""
        ours, batch = self.build(norm="frozen", min_side=72, max_side=130), self.batch()
        before, after = ({"train": 64, "test": 32}, {"train": 32, "test": 16})
        kept = {f"rpn_pre_nms_top_n_{mode}": count for mode, count in before.items()}
        kept |= {f"rpn_post_nms_top_n_{mode}": count for mode, count in after.items()}
        theirs = TorchvisionFasterRCNN(
            copy.deepcopy(ours.network.backbone),
            min_size=72,
            max_size=130,
            rpn_anchor_generator=AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2),
            rpn_batch_size_per_image=64,
            box_roi_pool=MultiScaleRoIAlign(
                ["0", "1"], 7, 2, canonical_scale=112
            ),  # the 224 of the paper, scaled to these anchors
            box_head=TwoMLPHead(16 * 49, 32),
            box_predictor=FastRCNNPredictor(32, 6),
            box_batch_size_per_image=32,
            **kept,
        )
        theirs.load_state_dict(ours.network.state_dict())
        theirs.transform.register_forward_hook(lambda *_: torch.default_generator.manual_seed(0) and None)
        targets = [{key: target[key] for key in ("boxes", "labels")} for target in batch["target"]]
        expected = theirs(batch["image"], targets)
        torch.manual_seed(0)
        losses = ours.loss_terms(batch)
        pairs = {"rpn_objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg", "class": "loss_classifier"}
        for name, term in (pairs | {"box": "loss_box_reg"}).items():
            torch.testing.assert_close(losses[name], expected[term])
        with torch.inference_mode():
            found, same = ours.eval().detect(batch), theirs.eval()(batch["image"])
        for one, other in zip(found, same, strict=True):
            torch.testing.assert_close(one["boxes"], other["boxes"])
            assert torch.equal(one["labels"], other["labels"])


class _Counting:
    """Sampler that records the numbers of objects and of others in every image."""

    def __init__(self, sampler: Any, counts: list[tuple[int, int]]) -> None:
        self.sampler, self.counts = sampler, counts

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        chosen = self.sampler(labels)
        self.counts += [(int(objects.sum()), int(others.sum())) for objects, others in zip(*chosen, strict=True)]
        return chosen


def test_full_size_matches_torchvision() -> None:
    with torch.device("meta"):
        ours = FasterRCNN(num_classes=90).network
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours.rpn._pre_nms_top_n == theirs.rpn._pre_nms_top_n
    assert ours.rpn._post_nms_top_n == theirs.rpn._post_nms_top_n


def test_paper_has_nine_anchors_and_pyramid_three() -> None:
    """Check 128, 256 and 512 pixels in three aspect ratios every 16 pixels; with a pyramid one size per stride."""
    with torch.device("meta"):
        single = FasterRCNN(20, "vgg16", fpn=False, head_channels=4096).network
        pyramid = FasterRCNN(20).network
    assert single.rpn.head.cls_logits.out_channels == 9
    assert single.rpn.head.bbox_pred.out_channels == 36
    assert pyramid.rpn.head.cls_logits.out_channels == 3
    assert single.roi_heads.box_head.fc6.weight.shape == (4096, 512 * 49)
    image = ImageList(torch.empty(1, 3, 608, 1024), [(600, 1000)])
    (boxes,) = single.rpn.anchor_generator(image, [torch.empty(1, 1, 38, 64)])
    assert len(boxes) == 38 * 64 * 9
    width, height = (boxes[:9, 2:] - boxes[:9, :2]).T
    torch.testing.assert_close((width * height).sqrt(), torch.tensor([128.0, 256, 512] * 3), rtol=0.01, atol=0)
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1, 2]).repeat_interleave(3), rtol=0.02, atol=0)
    assert [sizes for (sizes,) in pyramid.rpn.anchor_generator.sizes] == [32, 64, 128, 256, 512]


def test_roi_strides_do_not_depend_on_first_batch() -> None:
    """Check that strides do not depend on the first batch: at 65 pixels, padded to 96, torchvision takes 2 instead of 4."""
    model = FasterRCNN(**{**SMALL, "min_side": 65}).eval()
    with torch.inference_mode():
        model.detect({"image": [torch.rand(3, 65, 65)]})
    pool = model.network.roi_heads.box_roi_pool
    assert pool.scales == [1 / 4, 1 / 8]
    side = torch.tensor([[0, 0, 55.0, 55], [0, 0, 57, 57]])
    assert pool.map_levels([side]).tolist() == [0, 1]  # as 112 pixels are the boundary with anchors from 32


def test_any_image_shape_is_supported() -> None:
    model = FasterRCNN(**SMALL).eval()
    with torch.inference_mode():
        found = model.detect({"image": [torch.rand(3, 1, 500), torch.rand(3, 33, 20)]})
    assert found[0]["boxes"].numel() == 0 or found[0]["boxes"][:, 3].max() <= 1


def test_unused_stages_are_not_built() -> None:
    names = {name.split(".")[2] for name, _ in FasterRCNN(**SMALL).network.backbone.named_parameters("b")}
    assert {"layer1", "layer2"} <= names
    assert not names & {"layer3", "layer4", "fc"}


def _outputs(network: nn.Module) -> dict[str, Any]:
    """Return outputs of the body, the proposal head and the box predictor; each forward pass replaces them."""
    outputs: dict[str, Any] = {}
    parts = {"maps": network.backbone, "rpn": network.rpn.head, "boxes": network.roi_heads.box_predictor}
    for name, part in parts.items():
        part.register_forward_hook(lambda *call, name=name: outputs.update({name: call[2]}))
    return outputs


def _smallest_gap(scores: Tensor) -> float:
    return scores.flatten().sort().values.diff().min().item()


def test_coco_detections_match_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check norms without epsilon and old weight names of torchvision's checkpoints.

    Norms keep the scale of the maps and heads have large weights, so that scores differ by more than rounding errors.
    """
    torch.manual_seed(6)
    few = {"rpn_pre_nms_top_n_test": 5, "rpn_post_nms_top_n_test": 8}
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=6, min_size=64, max_size=64, **few
    ).eval()
    frozen = [module for module in theirs.backbone.body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert frozen
    for module in frozen:
        nn.init.uniform_(module.running_var, 1e-6, 1e-4)
        module.weight.data = module.running_var.sqrt() * torch.empty_like(module.weight).uniform_(0.5, 1)
    theirs.rpn.head.cls_logits.weight.data *= 30
    theirs.roi_heads.box_predictor.cls_score.weight.data *= 30
    state = copy.deepcopy(theirs.state_dict())
    for part in ("inner_blocks", "layer_blocks"):
        for level in range(4):
            for kind in ("weight", "bias"):
                state[f"backbone.fpn.{part}.{level}.{kind}"] = state.pop(f"backbone.fpn.{part}.{level}.0.{kind}")
    monkeypatch.setattr(rcnn, "fetch_weights", lambda weights: state)
    small = {"min_side": 64, "max_side": 64, "rpn": RPNOptions(proposals_before_nms=(5, 5), proposals=(8, 8))}
    ours = FasterRCNN(5, weights="coco", norm="frozen", **small).eval()
    for module in frozen:
        module.eps = 0.0
    image = torch.rand(3, 64, 64)
    before, wanted = _outputs(ours.network), _outputs(theirs)
    with torch.inference_mode():
        (found,), (expected,) = ours.detect({"image": [image]}), theirs([image])
    close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-4)
    close(list(before["maps"].values()), list(wanted["maps"].values()))
    close(before["rpn"], wanted["rpn"])
    close(before["boxes"], wanted["boxes"])
    best = [logits.flatten().topk(min(6, logits.numel())).values for logits in wanted["rpn"][0]]
    assert min(_smallest_gap(scores) for scores in (*best, expected["scores"])) > 1e-3
    assert torch.equal(found["labels"], expected["labels"])
    close(found["boxes"], expected["boxes"], atol=1e-2)
    close(found["scores"], expected["scores"])
    other = FasterRCNN(2, weights="coco", norm="frozen", **small).network
    assert other.roi_heads.box_predictor.cls_score.out_features == 3
    assert torch.equal(other.rpn.head.cls_logits.weight, theirs.rpn.head.cls_logits.weight)


def test_small_proposals_are_dropped() -> None:
    torch.manual_seed(0)
    image, narrowest = torch.rand(3, 64, 64), []
    for least in (0.0, 8.0):
        rpn = RPNOptions(anchor_sizes=(8, 16), proposals=(50, 50), min_proposal_size=least)
        network = FasterRCNN(
            2, "resnet18", width=0.125, min_side=64, max_side=64, fpn_channels=8, rpn=rpn
        ).network.eval()
        with torch.inference_mode():
            scaled, _ = network.transform([image])
            candidates = network.rpn.score_anchors(scaled, network.backbone(scaled.tensors))
            (boxes,) = network.rpn.propose(candidates)
        narrowest.append((boxes[:, 2:] - boxes[:, :2]).min().item())
    assert narrowest[0] < 8 <= narrowest[1]
    with pytest.raises(UsageError, match="model.rpn.min_proposal_size must be at least 0 and below min_side, 64"):
        FasterRCNN(2, "resnet18", min_side=64, max_side=64, rpn=RPNOptions(min_proposal_size=64))


def test_head_loads_hidden_layers_of_vgg() -> None:
    """Check section 3.2: all layers of the classifier except the last."""
    hidden = torch.zeros(4096, 512 * 49), torch.ones(4096, 4096)
    state = {"classifier.0.weight": hidden[0], "classifier.3.weight": hidden[1]}
    state |= {"classifier.0.bias": torch.zeros(4096), "classifier.3.bias": torch.ones(4096)}
    with torch.device("meta"):
        network = FasterRCNN(20, "vgg16", fpn=False, head_channels=4096).network
    network.roi_heads.box_head.to_empty(device="cpu")
    network._load_classifier(state)
    assert torch.equal(network.roi_heads.box_head.fc6.weight, hidden[0])
    assert torch.equal(network.roi_heads.box_head.fc7.weight, hidden[1])
    assert network.roi_heads.box_head.fc7.bias.min() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"rpn": {"anchor_sizes": [8, 16, 32, 64, 128, 256]}},
            "model.rpn.anchor_sizes must be .*one size for each map",
        ),
        ({"min_side": 200}, "model.min_side must be above 0 and at most max_side, 128, got 200"),
        ({"weights": "coco"}, "model.weights coco needs resnet50.*got resnet18.*0.25"),
        ({"weights": "imagenet"}, "model.width must be 1 with model.weights imagenet"),
        ({"num_classes": None}, "model.num_classes must be .*got None"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FasterRCNN(**{**SMALL, **arguments})
