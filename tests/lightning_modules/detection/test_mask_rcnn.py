"""Mask R-CNN: mask branch and loss of the paper, and masks at image size."""

import inspect
from typing import Any

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.faster_rcnn import FasterRCNN
from darkroom.lightning_modules.detection.mask_rcnn import MaskRCNN
from darkroom.lightning_modules.detection.torchvision import masks as masks_module
from darkroom.lightning_modules.detection.torchvision.masks import mask_targets, paste
from tests.contracts.detection import DetectionContract

RPN = {"anchor_sizes": [16, 32], "samples": 64, "proposals_before_nms": (64, 32), "proposals": (32, 16)}
SMALL = {
    "num_classes": 5,
    "backbone": "resnet18",
    "width": 0.25,
    "fpn_channels": 16,
    "head_channels": 32,
    "mask_channels": 8,
    "min_side": 64,
    "max_side": 128,
    "roi_samples": 32,
    "rpn": RPN,
}


class TestMaskRCNN(DetectionContract):
    steps = 60

    def build(self, **kwargs: Any) -> MaskRCNN:
        torch.manual_seed(0)
        return MaskRCNN(**{**SMALL, **kwargs})

    def data(self, **kwargs: Any) -> ShapesDetection:
        return super().data(masks=True, **kwargs)

    def test_efficientnet_lite_trains_and_detects(self) -> None:
        self.assert_trains_one_step_and_detects(self.build(backbone="efficientnet_lite0", width=0.1))

    def test_losses_and_detections_share_one_forward_pass(self) -> None:
        model, batch, calls = self.build(norm="frozen"), self.batch(), []
        torch.manual_seed(0)
        losses = model.train().loss_terms(batch)
        model.eval().network.backbone.register_forward_hook(lambda *_: calls.append(1))
        with torch.inference_mode():
            same, found = model.evaluate(batch)
            assert len(calls) == 1
            plain = model.network(batch["image"])
        assert same.keys() == losses.keys() == {"rpn_objectness", "rpn_box", "class", "box", "mask"}
        # Training has a RoIAlign of its own, equal up to rounding.
        torch.testing.assert_close(same, losses, rtol=1e-4, atol=1e-5)
        for one, other in zip(found, plain, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("boxes", "scores", "labels", "masks"))

    def test_mask_loss_uses_only_true_class(self) -> None:
        """Check section 3: masks of other classes do not contribute."""
        model, batch = self.build(), self.batch(objects=(1, 1))
        batch = {key: value[:1] for key, value in batch.items()}
        (label,) = batch["target"][0]["labels"].tolist()
        model.eval().loss_terms(batch)["mask"].backward()
        rows = model.network.roi_heads.mask_predictor.mask_fcn_logits.weight.grad.flatten(1).abs().sum(1)
        assert len(rows) == 6
        assert rows[label] > 0
        assert rows[torch.arange(6) != label].max() == 0

    def test_masks_lie_inside_boxes(self) -> None:
        model, batch = self.build(inference={"score_threshold": 0.0}).eval(), self.batch()
        with torch.inference_mode():
            found = model.detect(batch)[0]
        assert found["masks"].any()
        for box, mask in zip(found["boxes"], found["masks"], strict=True):
            y, x = mask.nonzero().T
            inside = (x + 1 > box[0]) & (x < box[2]) & (y + 1 > box[1]) & (y < box[3])
            assert inside.all()

    def test_images_without_masks_can_be_resized(self) -> None:
        model, batch = self.build(min_side=72), self.batch()
        target = batch["target"][0]
        batch["target"][0] = {key: target[key][:0] for key in ("boxes", "labels", "masks")}
        assert model.loss_terms(batch)["mask"] > 0

    def test_objects_without_masks_raise(self) -> None:
        model, batch = self.build(), self.batch()
        del batch["target"][1]["masks"]
        with pytest.raises(UsageError, match="MaskRCNN needs masks.*data.masks"):
            model.loss_terms(batch)


def test_full_size_matches_torchvision() -> None:
    with torch.device("meta"):
        ours = MaskRCNN(num_classes=90).network
        theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_mask_branch_matches_paper() -> None:
    """Check regions of 14 x 14, four convolutions of 256, and a deconvolution to 28 x 28 (figure 4, right)."""
    with torch.device("meta"):
        heads = MaskRCNN(num_classes=80).network.roi_heads
        masks = heads.mask_predictor(heads.mask_head(torch.empty(2, 256, *heads.mask_roi_pool.output_size)))
    assert heads.mask_roi_pool.output_size == (14, 14)
    assert heads.box_roi_pool.output_size == (7, 7)
    assert [block[0].out_channels for block in heads.mask_head] == [256] * 4
    assert masks.shape == (2, 81, 28, 28)


def test_arguments_match_faster_rcnn() -> None:
    ours, theirs = (inspect.signature(method).parameters for method in (MaskRCNN, FasterRCNN))
    assert set(ours) - set(theirs) == {"mask_channels"}
    assert set(theirs) - set(ours) == {"fpn"}
    same = set(ours) & set(theirs)
    assert all(ours[name].default == theirs[name].default for name in same)


def test_paste_fills_exactly_the_box() -> None:
    boxes = torch.tensor([[3.0, 5, 20, 12], [0, 0, 30, 24], [10, 10, 11, 13]])
    pasted = paste(torch.ones(3, 28, 28), boxes, (24, 30))
    expected = torch.zeros(3, 24, 30, dtype=torch.bool)
    expected[0, 5:12, 3:20] = True
    expected[1] = True
    expected[2, 10:13, 10:11] = True
    assert torch.equal(pasted, expected)
    assert paste(torch.ones(0, 28, 28), torch.zeros(0, 4), (24, 30)).shape == (0, 24, 30)


def test_paste_inverts_mask_targets() -> None:
    """Check that a disc survives cropping and pasting; torchvision's functions shift and widen it."""
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    disc = (x - 40.3) ** 2 + (y - 30.6) ** 2 < 13.4**2
    box, which = torch.tensor([[25.6, 15.7, 55.4, 45.2]]), torch.tensor([1])
    masks = torch.stack([torch.zeros_like(disc), disc])
    back = paste(mask_targets(masks, box, which, 28), box, (64, 80))[0]
    theirs = paste_masks_in_image(project_masks_on_boxes(masks, box, which, 28)[:, None], box, (64, 80))[0, 0] >= 0.5
    assert (back != disc).sum() < 0.01 * disc.sum()
    assert (theirs != disc).sum() > 0.05 * disc.sum()


def test_paste_in_chunks_is_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, corner = torch.rand(7, 28, 28), torch.rand(7, 2) * 20
    boxes = torch.cat([corner, corner + 1 + torch.rand(7, 2) * 20], 1)
    whole = paste(masks, boxes, (40, 40))
    monkeypatch.setattr(masks_module, "_PASTED", 40 * 40 * 2)
    assert torch.equal(paste(masks, boxes, (40, 40)), whole)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(paste(masks, boxes, (40, 40)), whole)
