"""Fast R-CNN (Girshick 2015): one feature map per image, pooled for every proposal, and one loss for class and box."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_pool

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.boxes import (
    STDS,
    decode,
    encode,
    fixed_seed,
    require_proposals,
    sample_rois,
    select_detections,
)
from darkroom.lightning_modules.detection.export.graph import ProposalGraph, detection_graph
from darkroom.lightning_modules.detection.export.select import extents, number_regions
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.torchvision.scaling import ImageScaling, rescale
from darkroom.lightning_modules.detection.types import Detections
from darkroom.lightning_modules.layers.backbones import Classifier, pooled_side
from darkroom.lightning_modules.layers.body import AnyBackbone, Body, build_backbone, is_body
from darkroom.lightning_modules.layers.narrow import freeze_first
from darkroom.lightning_modules.layers.pretrained import (
    Weights,
    imagenet_weights,
    load_all_but_last_layer,
    normalization_of,
)
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols.export import ExportGraph

_LEVEL = 4  # of the map of an image: stride 16


class FastRCNNNetwork(nn.Module):
    """Classifier with RoI pooling inside it and two outputs per region.

    AlexNet and VGG: their convolutions compute the map, of stride 16. RoI pooling takes the place of the last pooling, and
    the Linear layers classify a region.

    Other backbones: their blocks up to level 4 compute the map, of stride 16. Each region is pooled to 14 x 14 cells, the
    size of this map in a classifier of 224 pixels. The blocks of level 5, which halve it, and global average pooling follow
    (He et al. 2016, appendix A).

    Args:
        num_classes: K, without the background.
        backbone: AlexNet, CaffeNet, a VGG, a ResNet, MobileNetV2 or EfficientNet-Lite0.
        width: factor on the channels of every layer.
        freeze: number of first convolutions that are not trained, nor the batch norms after them; the paper's choice for
            VGG16 is 4.
        weights: imagenet: start from ImageNet weights, at width 1.
    """

    features: nn.Sequential | Body

    def __init__(
        self,
        num_classes: int = 20,
        backbone: AnyBackbone = "vgg16",
        width: float = 1.0,
        freeze: int = 0,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        check_choice("model.backbone", backbone, AnyBackbone)
        self.num_classes = num_classes
        if is_body(backbone):
            self.features = build_backbone(backbone, levels=(_LEVEL, 5), width=width, weights=weights)
            self.pooled, self.hidden, inputs = 14, nn.Sequential(), self.features.channels[-1]
        else:
            classifier = Classifier(backbone, num_classes + 1, 227, width=width)  # CaffeNet needs 227 for six cells
            if weights == "imagenet":
                load_all_but_last_layer(classifier, imagenet_weights(backbone, width, 3))
            self.features = classifier.features[:-1]  # without the last pooling
            self.pooled, self.hidden = pooled_side(backbone), classifier.classifier[:-1]
            inputs = classifier.last.in_features
        self.score, self.offsets = nn.Linear(inputs, num_classes + 1), nn.Linear(inputs, 4 * num_classes)
        for layer, std in ((self.score, 0.01), (self.offsets, 0.001)):  # section 2.3
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        convolutions = [layer for layer in self.features.modules() if isinstance(layer, nn.Conv2d)]
        if not 0 <= freeze <= len(convolutions):
            raise UsageError(
                f"model.freeze must be 0 to {len(convolutions)}, the convolutions of {backbone}, got {freeze}"
            )
        if freeze:
            freeze_first(self.features, freeze)

    def forward(self, images: Tensor, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Classify regions of normalized images (B, 3, H, W).

        Args:
            images: normalized.
            regions: per image (R_i, 4), in its pixels.

        Returns:
            Class logits (R, K + 1), background first, and offsets (R, K, 4), with R regions of all images in sequence.
        """
        return self.classify_regions(self.compute_maps(images), regions)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the layers of the whole image; the number of regions changes with every image."""
        self.features.compile(*args, **kwargs)

    def compute_maps(self, images: Tensor) -> Tensor:
        """Compute the maps (B, C, H / 16, W / 16) of normalized images (B, 3, H, W)."""
        if isinstance(self.features, Body):
            return self.features.last_map(images, until=_LEVEL)
        return self.features(images)

    def classify_regions(self, maps: Tensor, regions: list[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions from the images' maps, whose stride is 16 for all backbones; see ``forward``.

        Regions of all images may also be one tensor (R, 5): the index of the image, and the box.
        """
        rois = regions.float() if isinstance(regions, Tensor) else [boxes.float() for boxes in regions]
        pooled = roi_pool(maps.float(), rois, self.pooled, 1 / 2**_LEVEL)
        if isinstance(self.features, Body):
            pooled = self.features.last_map_from(_LEVEL, pooled).mean((2, 3))
        hidden = self.hidden(pooled.flatten(1))
        return self.score(hidden), self.offsets(hidden).view(-1, self.num_classes, 4)


class FastRCNN(ObjectDetection):
    """Fast R-CNN: classes and boxes of proposals from one feature map (Girshick 2015).

    Needs ``batch["proposals"]``: set ``data.proposals``. Loss (equation 1): cross-entropy over K + 1 classes plus smooth L1
    of the offsets of the true class, over regions that are objects, divided by the number of all regions.

    Args:
        num_classes: classes of objects, without the background.
        backbone: AlexNet, CaffeNet, a VGG, a ResNet, MobileNetV2 or EfficientNet-Lite0; the paper's are caffenet and vgg16.
        width: factor on the channels of every layer.
        weights: imagenet: start the backbone from ImageNet weights, at width 1.
        freeze: number of first convolutions that are not trained; the paper's choice for VGG16 is 4.
        min_side, max_side: images are resized so that the shorter side has ``min_side`` pixels, or less if the longer one
            would have more than ``max_side``.
        rois_per_image: regions of an image in a training step; the paper takes 64 of each of two images.
        foreground: largest fraction of objects among them.
        background_iou: IoU range of the others; the paper begins at 0.1, a kind of hard-negative mining.
        offset_deviations: standard deviations of the regression targets x, y, width and height, by which they are divided;
            the paper takes mean and deviation of its data.
        inference: which candidates become detections; by default score_threshold 0.05, nms_threshold 0.3, max_detections
            100.
        optim, init_from: see Technique.
    """

    initial_weight_arguments = ("weights",)
    network: FastRCNNNetwork
    default_limits: ClassVar[Limits] = Limits(score_threshold=0.05, nms_threshold=0.3, max_detections=100)
    free_arguments: ClassVar[tuple[str, ...]] = ("min_side", "max_side")

    def __init__(
        self,
        num_classes: int | None = None,
        backbone: AnyBackbone = "vgg16",
        width: float = 1.0,
        weights: Weights | None = None,
        freeze: int = 0,
        min_side: int = 600,
        max_side: int = 1000,
        rois_per_image: int = 64,
        foreground: float = 0.25,
        background_iou: tuple[float, float] = (0.1, 0.5),
        offset_deviations: tuple[float, float, float, float] = STDS,
        inference: DetectionInference | None = None,
        **kwargs: Any,
    ) -> None:
        network = FastRCNNNetwork(
            num_classes=num_classes or 1, backbone=backbone, width=width, freeze=freeze, weights=weights
        )
        super().__init__(network, num_classes=num_classes, masks=False, inference=inference, **kwargs)
        if rois_per_image < 1:
            raise UsageError(f"model.rois_per_image must be at least 1, got {rois_per_image}")
        if not 0 < foreground <= 1:
            raise UsageError(f"model.foreground must be a fraction in (0, 1], got {foreground}")
        if min(offset_deviations) <= 0:
            raise UsageError(f"model.offset_deviations must be four numbers above 0, got {list(offset_deviations)}")
        self.rois_per_image, self.foreground = rois_per_image, foreground
        self.offset_deviations = tuple(offset_deviations)
        self.background_iou = (background_iou[0], background_iou[1])
        self.own_normalization = normalization_of(backbone)
        self.transform = ImageScaling(min_side, max_side, self.own_normalization)

    def _maps(self, batch: Mapping[str, Any]) -> tuple[ImageList, Tensor]:
        images, _ = self.transform(list(batch["image"]))
        images.tensors = images.tensors.contiguous(memory_format=self.memory_format)
        return images, self.network.compute_maps(images.tensors)

    def _classify(
        self, batch: Mapping[str, Any], images: ImageList, maps: Tensor, regions: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Compute logits and offsets of regions in pixels of the original images."""
        scaled = [
            rescale(boxes, image.shape[-2:], size)
            for boxes, size, image in zip(regions, images.image_sizes, batch["image"], strict=True)
        ]
        logits, offsets = self.network.classify_regions(maps, scaled)
        return logits.float(), offsets.float()

    def _losses(self, batch: Mapping[str, Any], images: ImageList, maps: Tensor) -> dict[str, Tensor]:
        proposals = require_proposals(batch, "FastRCNN")
        samples = [
            sample_rois(
                boxes,
                target,
                self.rois_per_image,
                foreground=self.foreground,
                foreground_iou=0.5,
                background_iou=self.background_iou,
            )
            for boxes, target in zip(proposals, batch["target"], strict=True)
        ]
        logits, offsets = self._classify(batch, images, maps, [rois for rois, _, _ in samples])
        rois, labels, truth = (torch.cat(column) for column in zip(*samples, strict=True))
        # Of all regions, with the background masked, because selecting the objects would synchronize with a GPU.
        objects = (labels > 0)[:, None]
        own = offsets.gather(1, (labels - 1).clamp(min=0)[:, None, None].expand(-1, 1, 4)).squeeze(1)
        expected = encode(truth, rois, self.offset_deviations)
        difference = torch.where(objects, own - expected, 0)  # a region without area has no finite offsets
        box = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="sum", beta=1.0)
        count = max(1, len(labels))
        return {"class": F.cross_entropy(logits, labels, reduction="sum") / count, "box": box / count}

    def _detections(self, batch: Mapping[str, Any], images: ImageList, maps: Tensor) -> Detections:
        proposals = require_proposals(batch, "FastRCNN")
        logits, offsets = self._classify(batch, images, maps, proposals)
        counts = [len(boxes) for boxes in proposals]
        scores = logits.softmax(1)[:, 1:]
        boxes = decode(offsets, torch.cat(proposals).float()[:, None], self.offset_deviations)
        return [
            select_detections(one, score, image.shape[-2:], self.limits)
            for one, score, image in zip(boxes.split(counts), scores.split(counts), batch["image"], strict=True)
        ]

    def candidates(self, image: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Compute boxes (B, P, K, 4) and scores (B, P, K) of proposals (B, P, 4) of images (B, 3, H, W) in [0, 1]."""
        padded, size = self.transform.scale_batch(image)
        scaled = proposals * (extents(*size) / extents(*image.shape[-2:]))
        logits, offsets = self.network.classify_regions(self.network.compute_maps(padded), number_regions(scaled))
        boxes = decode(offsets.float(), proposals.flatten(0, 1)[:, None], self.offset_deviations)
        shape = proposals.shape[:2]
        return boxes.unflatten(0, shape), logits.float().softmax(1)[:, 1:].unflatten(0, shape)

    def whole_image_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images and proposals to detections."""
        graph = ProposalGraph(self, normalization)
        return detection_graph(graph, self.limits, 3, self.transform.describe(), proposals=True)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the loss terms of regions sampled from the batch's proposals."""
        return self._losses(batch, *self._maps(batch))

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """Detect objects by classifying and regressing the batch's proposals."""
        return self._detections(batch, *self._maps(batch))

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Compute loss terms, with a fixed sample of regions, and detections from one pass of the backbone."""
        images, maps = self._maps(batch)
        with fixed_seed(maps.device):
            losses = self._losses(batch, images, maps)
        return losses, self._detections(batch, images, maps)
