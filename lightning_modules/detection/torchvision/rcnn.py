"""TwoStageNetwork: torchvision's Faster and Mask R-CNN, which compute losses and detections in one pass."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection as published_detectors
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops.poolers import initLevelMapper

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.boxes import fixed_seed
from darkroom.lightning_modules.detection.inference import Limits
from darkroom.lightning_modules.detection.torchvision.masks import mask_targets
from darkroom.lightning_modules.detection.torchvision.pyramid import (
    FeaturePyramid,
    SingleMap,
    load_matching_weights,
)
from darkroom.lightning_modules.detection.torchvision.region_align import RegionAlign
from darkroom.lightning_modules.detection.torchvision.region_head import RegionHead
from darkroom.lightning_modules.detection.torchvision.scaling import ImageScaling
from darkroom.lightning_modules.detection.types import Detections, Target
from darkroom.lightning_modules.layers.body import Norm, build_backbone
from darkroom.lightning_modules.layers.pretrained import Weights, fetch_imagenet_weights, normalization_of
from darkroom.lightning_modules.utils.torchvision_weights import fetch_weights

Start = Literal["imagenet", "coco"]
Targets = Sequence[Target]

_COCO = {
    False: published_detectors.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    True: published_detectors.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
}


@dataclass(frozen=True)
class RPNOptions:
    """Options of the region proposal network.

    Args:
        anchor_sizes: sides of the anchors, in pixels of the resized image. With a pyramid one for each stride of 4, 8, 16,
            32, 64, ascending, at most five; None: 32 to 512. Without a pyramid None: 128, 256, 512, the paper's.
        aspect_ratios: height / width of the anchors.
        samples: anchors of an image in the loss, up to half of them objects.
        proposals_before_nms: best proposals (of each map) in training and in testing; the paper takes 12000, 6000.
        proposals: proposals after non-maximum suppression, in training and in testing; the paper takes 2000, 300.
        nms_threshold: IoU of this suppression.
        min_proposal_size: proposals with a smaller width or height are dropped, in pixels of the resized image. The
            authors' code takes 16 pixels of the image before it is resized: 25.6 where 375 x 500 becomes 600 x 800.
    """

    anchor_sizes: Sequence[float] | None = None
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    samples: int = 256
    proposals_before_nms: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    nms_threshold: float = 0.7
    min_proposal_size: float = 0.001

    def sizes(self, fpn: bool) -> Sequence[float]:
        """Return the anchor sizes, for a pyramid or for one map."""
        return self.anchor_sizes or ((32, 64, 128, 256, 512) if fpn else (128, 256, 512))


# Arguments of two-stage detectors that may differ from those of the training.
FREE_ARGUMENTS = ("min_side", "max_side", "rpn.proposals_before_nms", "rpn.proposals", "rpn.nms_threshold")

# --- boxes stay in float32 whatever autocast does to the maps they come from -------------------------------------------


class _Anchors(AnchorGenerator):
    """Anchors in float32. torchvision's have the maps' type, and in bf16 a corner at 800 pixels is off by up to 2."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        return super().forward(image_list, [map_[:1, :1].float() for map_ in feature_maps])


class _RPNHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, offsets = super().forward(x)
        return [map_.float() for map_ in logits], [map_.float() for map_ in offsets]


class _BoxPredictor(FastRCNNPredictor):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, offsets = super().forward(x)
        return scores.float(), offsets.float()


class _MaskPredictor(MaskRCNNPredictor):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


# --- the two stages -----------------------------------------------------------------------------------------------------


class _Candidates(NamedTuple):
    """Outputs of the proposal network's head for a batch of B images."""

    anchors: list[Tensor]  # per image (A, 4)
    objectness: Tensor  # (B A, 1)
    offsets: Tensor  # (B A, 4)
    boxes: Tensor  # (B, A, 4), decoded
    per_level: list[int]
    sizes: list[tuple[int, int]]


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's region proposal network, with one pass of the head for losses and proposals."""

    def score_anchors(self, images: ImageList, maps: Mapping[str, Tensor]) -> _Candidates:
        """Score the anchors of all maps and decode their boxes."""
        levels = list(maps.values())
        logits, offsets = self.head(levels)
        anchors = self.anchor_generator(images, levels)
        per_level = [level[0].numel() for level in logits]
        objectness, offsets = concat_box_prediction_layers(logits, offsets)
        boxes = self.box_coder.decode(offsets.detach(), anchors).view(len(anchors), -1, 4)
        return _Candidates(anchors, objectness, offsets, boxes, per_level, images.image_sizes)

    def propose(self, candidates: _Candidates) -> list[Tensor]:
        """Select the best boxes (P, 4) of each image, after non-maximum suppression, for training or testing."""
        return self.filter_proposals(candidates.boxes, candidates.objectness, candidates.sizes, candidates.per_level)[0]

    def losses(self, candidates: _Candidates, targets: Targets) -> dict[str, Tensor]:
        """Compute the losses of objectness and offsets on a sample of anchors."""
        labels, boxes = self.assign_targets_to_anchors(candidates.anchors, targets)
        expected = self.box_coder.encode(boxes, candidates.anchors)
        objectness, box = self.compute_loss(candidates.objectness, candidates.offsets, labels, expected)
        return {"rpn_objectness": objectness, "rpn_box": box}


class RegionHeads(RoIHeads):
    """torchvision's heads of the regions, split into losses and detections.

    Boxes are in pixels of the resized images. Masks are probabilities (M, 28, 28).
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> Any:
        """Compute the terms of the loss in training, detections otherwise."""
        if self.training:
            assert targets is not None
            return self._losses(features, proposals, image_shapes, targets)
        return self._detect(features, proposals, image_shapes)

    def _losses(
        self, maps: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]], targets: Targets
    ) -> dict[str, Tensor]:
        proposals, truths, labels, expected = self.select_training_samples(proposals, targets)
        logits, offsets = self._boxes(maps, proposals, sizes)
        terms = dict(zip(("class", "box"), fastrcnn_loss(logits, offsets, labels, expected), strict=True))
        if self.has_mask():
            terms["mask"] = self._mask_loss(maps, proposals, sizes, truths, labels, targets)
        return terms

    def _detect(self, maps: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]) -> Detections:
        logits, offsets = self._boxes(maps, proposals, sizes)
        columns = zip(*self.postprocess_detections(logits, offsets, proposals, sizes), strict=True)
        found: Detections = [{"boxes": boxes, "scores": scores, "labels": labels} for boxes, scores, labels in columns]
        if self.has_mask():
            masks = self._masks(maps, [one["boxes"] for one in found], sizes)
            of_class = maskrcnn_inference(masks, [one["labels"] for one in found])
            for one, mask in zip(found, of_class, strict=True):
                one["masks"] = mask[:, 0]
        return found

    def _boxes(
        self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        return self.box_predictor(self.box_head(self.box_roi_pool(maps, boxes, sizes)))

    def _masks(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes, sizes)))

    def _mask_loss(
        self,
        maps: dict[str, Tensor],
        boxes: list[Tensor],
        sizes: list[tuple[int, int]],
        truths: list[Tensor],
        labels: list[Tensor],
        targets: Targets,
    ) -> Tensor:
        """Compute the cross-entropy of the true class's mask, over regions that are objects."""
        objects = [(label > 0).nonzero().flatten() for label in labels]
        boxes, truths, labels = (
            [value[some] for value, some in zip(values, objects, strict=True)] for values in (boxes, truths, labels)
        )
        logits, classes = self._masks(maps, boxes, sizes), torch.cat(labels)
        expected = [
            mask_targets(target["masks"], box, truth, logits.shape[-1])
            for target, box, truth in zip(targets, boxes, truths, strict=True)
        ]
        if not len(classes):
            return logits.sum() * 0
        chosen = logits[torch.arange(len(classes), device=classes.device), classes]
        return F.binary_cross_entropy_with_logits(chosen, torch.cat(expected))


class TwoStageNetwork(GeneralizedRCNN):
    """Faster R-CNN, or with ``mask_channels`` Mask R-CNN, of torchvision's parts; parameters have torchvision's names.

    Images: list of float (3, H, W) in [0, 1]. ``num_classes`` excludes the background; the logits include it, first.

    - In training: images, targets -> the terms of the loss.
    - In evaluation: images -> detections.
    - In evaluation with targets: (terms, detections). The body and the proposal head run once, the heads of the regions
      twice: on the regions of testing and on a sample as in training. Norms and dropout stay in eval mode, and the sample
      has a fixed seed.

    Arguments as in FasterRCNN and MaskRCNN; ``limits`` are those of ``select_detections``.
    """

    rpn: ProposalNetwork
    roi_heads: RegionHeads

    def __init__(
        self,
        *,
        num_classes: int,
        backbone_name: str,
        width: float,
        weights: Start | None,
        norm: Norm,
        frozen_stages: int,
        fpn: bool,
        fpn_channels: int,
        head_channels: int,
        mask_channels: int | None,
        min_side: int,
        max_side: int,
        roi_samples: int,
        rpn: RPNOptions,
        limits: Limits,
    ) -> None:
        # Before the slow parts, because it checks the sides.
        scaling = ImageScaling(min_side, max_side, normalization_of(backbone_name))
        anchor_sizes = rpn.sizes(fpn)
        levels = _levels(anchor_sizes) if fpn else [4]
        start: Weights | None = "imagenet" if weights == "imagenet" else None
        body = build_backbone(
            backbone_name, levels=levels, width=width, weights=start, norm=norm, frozen_stages=frozen_stages
        )
        maps: FeaturePyramid | SingleMap
        pool = len(anchor_sizes) == 5
        maps = FeaturePyramid(body, fpn_channels, pool) if fpn else SingleMap(body)
        sizes = [[size] for size in anchor_sizes] if fpn else [list(anchor_sizes)]
        anchors = _Anchors(sizes, [list(rpn.aspect_ratios)] * len(sizes))
        head = _RPNHead(maps.out_channels, anchors.num_anchors_per_location()[0])
        proposal_network = ProposalNetwork(
            anchors,
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=rpn.samples,
            positive_fraction=0.5,
            pre_nms_top_n=dict(zip(("training", "testing"), rpn.proposals_before_nms, strict=True)),
            post_nms_top_n=dict(zip(("training", "testing"), rpn.proposals, strict=True)),
            nms_thresh=rpn.nms_threshold,
        )
        if not 0 <= rpn.min_proposal_size < min_side:
            raise UsageError(
                f"model.rpn.min_proposal_size must be at least 0 and below min_side, {min_side}, got "
                f"{rpn.min_proposal_size}"
            )
        proposal_network.min_size = rpn.min_proposal_size
        canonical = 7 * min(anchor_sizes)
        roi_heads = RegionHeads(
            _roi_align(levels, 7, canonical),
            RegionHead(maps.out_channels * 49, head_channels),
            _BoxPredictor(head_channels, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=roi_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=limits.score_threshold,
            nms_thresh=limits.nms_threshold,
            detections_per_img=limits.max_detections,
        )
        if mask_channels is not None:
            roi_heads.mask_roi_pool = _roi_align(levels, 14, canonical)
            roi_heads.mask_head = MaskRCNNHeads(maps.out_channels, (mask_channels,) * 4, 1)
            roi_heads.mask_predictor = _MaskPredictor(mask_channels, mask_channels, num_classes + 1)
        super().__init__(maps, proposal_network, roi_heads, scaling)
        if weights == "coco":
            self._load_coco(backbone_name, width, fpn, mask_channels is not None)
        elif weights == "imagenet" and not fpn and backbone_name.startswith("vgg"):
            self._load_classifier(fetch_imagenet_weights(backbone_name))

    def forward(self, images: list[Tensor], targets: Targets | None = None) -> Any:
        sizes = [tuple(image.shape[-2:]) for image in images]
        scaled, targets = self.transform(images, targets)
        maps = self.backbone(scaled.tensors)
        candidates = self.rpn.score_anchors(scaled, maps)
        if self.training and targets is not None:
            return self._losses(maps, candidates, targets)
        found = self.roi_heads(maps, self.rpn.propose(candidates), candidates.sizes)
        found = self.transform.postprocess(found, candidates.sizes, sizes)
        if targets is None:
            return found
        with fixed_seed(scaled.tensors.device), _training_mode(self.rpn, self.roi_heads):
            return self._losses(maps, candidates, targets), found

    def losses(self, images: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Compute the terms of the loss, in training or evaluation."""
        return self(images, targets) if self.training else self(images, targets)[0]

    def _losses(self, maps: dict[str, Tensor], candidates: _Candidates, targets: Targets) -> dict[str, Tensor]:
        return self.rpn.losses(candidates, targets) | self.roi_heads(
            maps, self.rpn.propose(candidates), candidates.sizes, targets
        )

    def _load_coco(self, backbone_name: str, width: float, fpn: bool, masks: bool) -> None:
        if (backbone_name, width, fpn) != ("resnet50", 1, True):
            raise UsageError(
                f"model.weights coco needs resnet50 with a feature pyramid at width 1, got {backbone_name}, "
                f"{'with' if fpn else 'without'} one, at width {width}; use imagenet"
            )
        state = fetch_weights(_COCO[masks])
        # These were trained with norms without epsilon; the factor compensates for the epsilon of ours.
        for name in [name for name in state if name.endswith("running_var")]:
            factor = name.replace("running_var", "weight")
            state[factor] = state[factor] * (1 + 1e-5 / state[name]).sqrt()
        load_matching_weights(self, state)

    def _load_classifier(self, state: dict[str, Tensor]) -> None:
        """Load VGG's two hidden layers, from which the paper's head starts, where the head has the same width."""
        for layer, linear in (
            (self.roi_heads.box_head.fc6, "classifier.0"),
            (self.roi_heads.box_head.fc7, "classifier.3"),
        ):
            if layer.weight.shape == state[f"{linear}.weight"].shape:
                layer.load_state_dict({part: state[f"{linear}.{part}"] for part in ("weight", "bias")})

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the body alone: all else depends on the number of boxes, which changes with every image."""
        self.backbone.compile(*args, **kwargs)


def _levels(anchor_sizes: Sequence[float]) -> list[int]:
    """Return the body's levels for a pyramid with a map per anchor size; the fifth map is pooled from the fourth."""
    if not 1 <= len(anchor_sizes) <= 5:
        raise UsageError(
            f"model.rpn.anchor_sizes must be one to five sizes, one size for each map of the pyramid (strides 4, 8, 16, 32 "
            f"and 64 pixels), got {list(anchor_sizes)}"
        )
    return list(range(2, 2 + min(4, len(anchor_sizes))))


def _roi_align(levels: Sequence[int], size: int, canonical: float) -> RegionAlign:
    """Build RoIAlign over maps of these levels; a region of ``canonical`` pixels is pooled from level 4.

    See Lin et al. 2017, equation 1. torchvision derives the strides from the first batch, padding included, which is wrong
    for small images.
    """
    pool = RegionAlign([str(index) for index in range(len(levels))], size, 2, canonical_scale=canonical)
    pool.scales = [2.0**-level for level in levels]
    pool.map_levels = initLevelMapper(levels[0], levels[-1], canonical)
    return pool


@contextmanager
def _training_mode(*modules: nn.Module) -> Iterator[None]:
    """Make these modules propose and sample as in training; modules inside them, norms and dropout, keep their mode."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = True
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training
