"""TwoStageNetwork: torchvision's Faster and Mask R-CNN, whose one pass gives losses and detections."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection as published_detectors
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.boxes import clip, repeatable
from darkroom.lightning_modules.detection.torchvision.masks import mask_targets, paste
from darkroom.lightning_modules.detection.torchvision.pyramid import (
    FeaturePyramid,
    Norm,
    SingleMap,
    backbone,
    imagenet,
    load_agreeing,
    published,
)
from darkroom.lightning_modules.layers.backbones import IMAGENET_MEAN, IMAGENET_STD

Start = Literal["imagenet", "coco"]
Targets = Sequence[Mapping[str, Tensor]]

_COCO = {
    False: published_detectors.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    True: published_detectors.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
}


# --- boxes stay in float32 whatever autocast does to the maps they come from -------------------------------------------


class _Anchors(AnchorGenerator):
    """torchvision's takes the maps' type, and in bf16 a corner at 800 pixels is off by up to 2."""

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


# --- images in, boxes and masks out -------------------------------------------------------------------------------------


class _Scaling(GeneralizedRCNNTransform):
    """Normalises and scales images, pads them to one batch, and brings what was found back to their own size."""

    def __init__(self, min_side: int, max_side: int) -> None:
        super().__init__(min_side, max_side, list(IMAGENET_MEAN), list(IMAGENET_STD))
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        height, width = image.shape[-2:]
        scale = min(self.min_size[0] / min(height, width), self.max_size / max(height, width))
        if scale == 1:
            return image, target
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = _stretched(target["boxes"], (height, width), size)
            if "masks" in target:
                masks = target["masks"][:, None].to(torch.uint8)
                target["masks"] = F.interpolate(masks, size, mode="nearest-exact")[:, 0]
        return image, target

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: list[tuple[int, int]], original_image_sizes: list[Any]
    ) -> list[dict[str, Tensor]]:
        for found, seen, size in zip(result, image_shapes, original_image_sizes, strict=True):
            found["boxes"] = clip(_stretched(found["boxes"], seen, size), size)
            if "masks" in found:
                found["masks"] = paste(found["masks"], found["boxes"], size)
        return result


def _stretched(boxes: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Boxes (N, 4) of an image of one size (height, width), as they are when it has another."""
    (y, x) = (new / old for new, old in zip(after, before, strict=True))
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([x0 * x, y0 * y, x1 * x, y1 * y], 1)


# --- the two stages -----------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """What the proposal network makes of a batch: anchors per image, and of all of them in a row objectness and offsets."""

    anchors: list[Tensor]
    objectness: Tensor
    offsets: Tensor
    boxes: Tensor  # (B, anchors, 4), decoded
    per_level: list[int]
    sizes: list[tuple[int, int]]


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's region proposal network, which looks once and then proposes for training, for testing, or both."""

    def look(self, images: ImageList, maps: Mapping[str, Tensor]) -> _Seen:
        """Runs the head over the maps."""
        levels = list(maps.values())
        logits, offsets = self.head(levels)
        anchors = self.anchor_generator(images, levels)
        per_level = [level[0].numel() for level in logits]
        objectness, offsets = concat_box_prediction_layers(logits, offsets)
        boxes = self.box_coder.decode(offsets.detach(), anchors).view(len(anchors), -1, 4)
        return _Seen(anchors, objectness, offsets, boxes, per_level, images.image_sizes)

    def propose(self, seen: _Seen) -> list[Tensor]:
        """The best boxes (P, 4) of each image, after non-maximum suppression: as many as training or testing takes."""
        return self.filter_proposals(seen.boxes, seen.objectness, seen.sizes, seen.per_level)[0]

    def losses(self, seen: _Seen, targets: Targets) -> dict[str, Tensor]:
        """Objectness and offsets of a sample of anchors."""
        labels, boxes = self.assign_targets_to_anchors(seen.anchors, targets)
        wanted = self.box_coder.encode(boxes, seen.anchors)
        objectness, box = self.compute_loss(seen.objectness, seen.offsets, labels, wanted)
        return {"rpn_objectness": objectness, "rpn_box": box}


class RegionHeads(RoIHeads):
    """torchvision's heads of the regions: in training the terms of their loss, else what they find, in the images' pixels
    as the network sees them; ``masks`` are probabilities (M, 28, 28)."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> Any:
        if self.training:
            proposals, truths, labels, wanted = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        logits, offsets = self.box_predictor(self.box_head(pooled))
        if self.training:
            terms = dict(zip(("class", "box"), fastrcnn_loss(logits, offsets, labels, wanted), strict=True))
            if self.has_mask():
                terms["mask"] = self._mask_loss(features, proposals, image_shapes, truths, labels, targets)
            return terms
        found = zip(*self.postprocess_detections(logits, offsets, proposals, image_shapes), strict=True)
        found = [dict(zip(("boxes", "scores", "labels"), one, strict=True)) for one in found]
        if self.has_mask():
            masks = self._masks(features, [one["boxes"] for one in found], image_shapes)
            of_class = maskrcnn_inference(masks, [one["labels"] for one in found])
            found = [one | {"masks": mask[:, 0]} for one, mask in zip(found, of_class, strict=True)]
        return found

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
        """Cross-entropy of the true class's mask, of regions that are objects."""
        objects = [label > 0 for label in labels]
        boxes, truths, labels = (
            [value[some] for value, some in zip(values, objects, strict=True)] for values in (boxes, truths, labels)
        )
        logits, labels = self._masks(maps, boxes, sizes), torch.cat(labels)
        wanted = [
            mask_targets(target["masks"], box, truth, logits.shape[-1])
            for target, box, truth in zip(targets, boxes, truths, strict=True)
        ]
        if not len(labels):
            return logits.sum() * 0
        chosen = logits[torch.arange(len(labels), device=labels.device), labels]
        return F.binary_cross_entropy_with_logits(chosen, torch.cat(wanted))


class TwoStageNetwork(GeneralizedRCNN):
    """Faster R-CNN, or with ``mask_channels`` Mask R-CNN, of torchvision's parts, whose names its parameters keep.

    Images: list of float (3, H, W) in [0, 1]; ``num_classes`` does not count the background, but its logits do, first.
    Gives, in training, the terms of the loss; in evaluation a list of ``boxes``, ``scores``, ``labels`` and ``masks`` bool
    (M, H, W), and with targets both: (terms, detections). Then the body and the proposal head run once, the heads of the
    regions twice: on the regions that are judged, and on the sample that training would take. No norm or dropout leaves
    evaluation for it, and the sample is the same every time.

    Arguments as in FasterRCNN and MaskRCNN.
    """

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
        anchor_sizes: Sequence[float],
        aspect_ratios: Sequence[float],
        min_side: int,
        max_side: int,
        rpn_samples: int,
        roi_samples: int,
        proposals_before_nms: Sequence[int],
        proposals: Sequence[int],
        rpn_nms_threshold: float,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        if not 0 < min_side <= max_side:
            raise UsageError(f"model.min_side is {min_side} and max_side {max_side}; it needs 0 < min_side <= max_side")
        levels = _levels(anchor_sizes) if fpn else [4]
        start = "imagenet" if weights == "imagenet" else None
        body, channels = backbone(backbone_name, levels, width, start, norm, frozen_stages)
        if fpn:
            maps = FeaturePyramid(body, channels, fpn_channels, pool=len(anchor_sizes) == 5)
        else:
            maps = SingleMap(body, *channels)
        sizes = [[size] for size in anchor_sizes] if fpn else [list(anchor_sizes)]
        anchors = _Anchors(sizes, [list(aspect_ratios)] * len(sizes))
        head = _RPNHead(maps.out_channels, anchors.num_anchors_per_location()[0])
        rpn = ProposalNetwork(
            anchors,
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=rpn_samples,
            positive_fraction=0.5,
            pre_nms_top_n=dict(zip(("training", "testing"), proposals_before_nms, strict=True)),
            post_nms_top_n=dict(zip(("training", "testing"), proposals, strict=True)),
            nms_thresh=rpn_nms_threshold,
        )
        canonical = 7 * min(anchor_sizes)
        roi_heads = RegionHeads(
            _roi_align(levels, 7, canonical),
            TwoMLPHead(maps.out_channels * 49, head_channels),
            _BoxPredictor(head_channels, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=roi_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
        )
        if mask_channels is not None:
            roi_heads.mask_roi_pool = _roi_align(levels, 14, canonical)
            roi_heads.mask_head = MaskRCNNHeads(maps.out_channels, (mask_channels,) * 4, 1)
            roi_heads.mask_predictor = _MaskPredictor(mask_channels, mask_channels, num_classes + 1)
        super().__init__(maps, rpn, roi_heads, _Scaling(min_side, max_side))
        if weights == "coco":
            self._load_coco(backbone_name, width, fpn, mask_channels is not None)
        elif weights == "imagenet" and not fpn and backbone_name.startswith("vgg"):
            self._load_classifier(imagenet(backbone_name))

    def forward(self, images: list[Tensor], targets: Targets | None = None) -> Any:
        sizes = [tuple(image.shape[-2:]) for image in images]
        scaled, targets = self.transform(images, targets)
        maps = self.backbone(scaled.tensors)
        seen = self.rpn.look(scaled, maps)
        if self.training and targets is not None:
            return self._losses(maps, seen, targets)
        found = self.roi_heads(maps, self.rpn.propose(seen), seen.sizes)
        found = self.transform.postprocess(found, seen.sizes, sizes)
        if targets is None:
            return found
        with repeatable(scaled.tensors.device), _as_in_training(self.rpn, self.roi_heads):
            return self._losses(maps, seen, targets), found

    def losses(self, images: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The terms of the loss, in training or evaluation."""
        return self(images, targets) if self.training else self(images, targets)[0]

    def _losses(self, maps: dict[str, Tensor], seen: _Seen, targets: Targets) -> dict[str, Tensor]:
        return self.rpn.losses(seen, targets) | self.roi_heads(maps, self.rpn.propose(seen), seen.sizes, targets)

    def _load_coco(self, backbone_name: str, width: float, fpn: bool, masks: bool) -> None:
        if (backbone_name, width, fpn) != ("resnet50", 1, True):
            raise UsageError(
                f"model.weights coco are of resnet50 with a feature pyramid at width 1, not of {backbone_name}, "
                f"{'with' if fpn else 'without'} one, at width {width}; take imagenet"
            )
        state = published(_COCO[masks])
        # These were trained with norms that add nothing to the variance; ours do, and the factor makes up for it.
        for name in [name for name in state if name.endswith("running_var")]:
            factor = name.replace("running_var", "weight")
            state[factor] = state[factor] * (1 + 1e-5 / state[name]).sqrt()
        load_agreeing(self, state)

    def _load_classifier(self, state: dict[str, Tensor]) -> None:
        """VGG's two hidden layers, from which the paper's head starts, where the head is as wide."""
        for layer, linear in (
            (self.roi_heads.box_head.fc6, "classifier.0"),
            (self.roi_heads.box_head.fc7, "classifier.3"),
        ):
            if layer.weight.shape == state[f"{linear}.weight"].shape:
                layer.load_state_dict({part: state[f"{linear}.{part}"] for part in ("weight", "bias")})

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the body alone: the number of boxes, on which all else depends, is another for every image."""
        self.backbone.compile(*args, **kwargs)


def _levels(anchor_sizes: Sequence[float]) -> list[int]:
    """Levels of the body that a pyramid with so many maps is made of; the fifth is pooled from the fourth."""
    if not 1 <= len(anchor_sizes) <= 5:
        raise UsageError(
            f"model.anchor_sizes is {list(anchor_sizes)}; a pyramid has one size for each map: for strides of 4, 8, 16, 32 "
            "and 64 pixels at most"
        )
    return list(range(2, 2 + min(4, len(anchor_sizes))))


def _roi_align(levels: Sequence[int], size: int, canonical: float) -> MultiScaleRoIAlign:
    """RoIAlign over maps of these levels; a region of ``canonical`` pixels goes to level 4 (Lin et al. 2017, equation 1).

    torchvision guesses the strides from the first batch, padding included, and so wrongly where images are small.
    """
    pool = MultiScaleRoIAlign([str(index) for index in range(len(levels))], size, 2, canonical_scale=canonical)
    pool.scales = [2.0**-level for level in levels]
    pool.map_levels = initLevelMapper(levels[0], levels[-1], canonical)
    return pool


@contextmanager
def _as_in_training(*modules: nn.Module) -> Iterator[None]:
    """Within, these modules propose and sample as in training; what is inside them, norms and dropout, stays as it is."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = True
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training
