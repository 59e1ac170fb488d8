"""Fast R-CNN (Girshick 2015): one feature map per picture, pooled for every proposal, and one loss for class and box."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import roi_pool

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import Detections, ObjectDetection
from darkroom.lightning_modules.detection.boxes import (
    decode,
    detections,
    encode,
    repeatable,
    required_proposals,
    sample_rois,
)
from darkroom.lightning_modules.layers.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    Classifier,
    Weights,
    imagenet_weights,
    load_all_but_the_answer,
    pooled_side,
)


class FastRCNNNetwork(nn.Module):
    """A classifier whose last pooling is replaced by RoI pooling, with two outputs per region.

    Args:
        num_classes: K, without the background.
        backbone: AlexNet or a VGG; its convolutions make the map, of stride 16, its linear layers see a region.
        width: factor on the channels of every layer.
        freeze: how many of the first convolutions are not trained; the paper's choice for VGG16 is 4.
    """

    def __init__(
        self, num_classes: int = 20, backbone: Backbone = "vgg16", width: float = 1.0, freeze: int = 0
    ) -> None:
        super().__init__()
        classifier = Classifier(backbone, num_classes + 1, 224, width=width)
        self.features = classifier.features[:-1]  # without the last pooling
        self.pooled, self.num_classes = pooled_side(backbone), num_classes
        *hidden, last = classifier.classifier
        self.hidden = nn.Sequential(*hidden)
        self.score = nn.Linear(last.in_features, num_classes + 1)
        self.offsets = nn.Linear(last.in_features, 4 * num_classes)
        for layer, std in ((self.score, 0.01), (self.offsets, 0.001)):  # section 2.3
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        convolutions = [layer for layer in self.features if isinstance(layer, nn.Conv2d)]
        if not 0 <= freeze <= len(convolutions):
            raise UsageError(f"model.freeze is {freeze}; {backbone} has {len(convolutions)} convolutions")
        for convolution in convolutions[:freeze]:
            convolution.requires_grad_(False)

    def forward(self, images: Tensor, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalised, and a list of B regions (R_i, 4) in their pixels -> class logits (R, K + 1),
        background first, and offsets (R, K, 4), R being all regions one after another."""
        return self.judge(self.features(images), regions)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the convolutions; how many regions there are changes with every picture."""
        self.features.compile(*args, **kwargs)

    def judge(self, maps: Tensor, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The same from the images' maps, which all of the backbones make with a stride of 16."""
        pooled = roi_pool(maps.float(), [boxes.float() for boxes in regions], self.pooled, 1 / 16)
        hidden = self.hidden(pooled.flatten(1))
        return self.score(hidden), self.offsets(hidden).view(-1, self.num_classes, 4)


class FastRCNN(ObjectDetection):
    """Fast R-CNN: classes and boxes of proposals from one feature map (Girshick 2015).

    Needs ``batch["proposals"]``: set ``data.proposals``. Loss (equation 1): cross-entropy over K + 1 classes plus smooth L1
    of the offsets of the true class, over regions that are objects, divided by the number of all regions.

    Args:
        num_classes: classes of objects, without the background.
        backbone: AlexNet or a VGG; the paper's are alexnet and vgg16.
        width: factor on the channels of every layer.
        weights: start from torchvision's ImageNet weights; they are downloaded only if this is set.
        freeze: how many of the first convolutions are not trained; the paper's choice for VGG16 is 4.
        min_side, max_side: pictures are resized so that the shorter side has ``min_side`` pixels, or less if the longer one
            would have more than ``max_side``.
        rois_per_image: regions of an image in a training step; the paper takes 64 of each of two images.
        foreground: part of them that are objects, at most.
        background_iou: IoU range of the others; the paper begins at 0.1, a kind of hard-negative mining.
        score_threshold, nms_threshold, max_detections: see ``detections``.
        optim: see Technique.
    """

    starts_from = ("weights",)

    def __init__(
        self,
        num_classes: int | None = None,
        backbone: Backbone = "vgg16",
        width: float = 1.0,
        weights: Weights | None = None,
        freeze: int = 0,
        min_side: int = 600,
        max_side: int = 1000,
        rois_per_image: int = 64,
        foreground: float = 0.25,
        background_iou: tuple[float, float] = (0.1, 0.5),
        score_threshold: float = 0.05,
        nms_threshold: float = 0.3,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        network = FastRCNNNetwork(num_classes or 1, backbone, width, freeze)
        super().__init__(network, num_classes, **kwargs)
        if rois_per_image < 1 or not 0 < foreground <= 1:
            raise UsageError(
                f"model.rois_per_image is {rois_per_image}, model.foreground {foreground}; a number of regions, at least "
                "1, and a part of them, in (0, 1]"
            )
        if weights == "imagenet":
            classifier = Classifier(backbone, network.num_classes + 1)
            load_all_but_the_answer(classifier, imagenet_weights(backbone, width, 3))
            network.features.load_state_dict(classifier.features.state_dict())
            network.hidden.load_state_dict(classifier.classifier[:-1].state_dict())
        self.rois_per_image, self.foreground, self.background_iou = rois_per_image, foreground, tuple(background_iou)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        self.transform = GeneralizedRCNNTransform(min_side, max_side, list(IMAGENET_MEAN), list(IMAGENET_STD))

    def _maps(self, batch: Mapping[str, Any]) -> tuple[ImageList, Tensor]:
        images, _ = self.transform(list(batch["image"]))
        images.tensors = images.tensors.contiguous(memory_format=self.memory_format)
        return images, self.network.features(images.tensors)

    def _judge(
        self, batch: Mapping[str, Any], images: ImageList, maps: Tensor, regions: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits and offsets of regions in pixels of the pictures, which the network sees resized."""
        scaled = [
            boxes
            * boxes.new_tensor([new / old for new, old in zip(size, image.shape[-2:], strict=True)]).flip(0).repeat(2)
            for boxes, size, image in zip(regions, images.image_sizes, batch["image"], strict=True)
        ]
        logits, offsets = self.network.judge(maps, scaled)
        return logits.float(), offsets.float()

    def _losses(self, batch: Mapping[str, Any], images: ImageList, maps: Tensor) -> dict[str, Tensor]:
        proposals = required_proposals(batch, "FastRCNN")
        rois, labels, truth = zip(
            *(
                sample_rois(boxes, target, self.rois_per_image, self.foreground, 0.5, self.background_iou)
                for boxes, target in zip(proposals, batch["target"], strict=True)
            ),
            strict=True,
        )
        logits, offsets = self._judge(batch, images, maps, list(rois))
        rois, labels, truth = torch.cat(rois), torch.cat(labels), torch.cat(truth)
        objects = labels.nonzero().flatten()
        wanted = encode(truth[objects], rois[objects])
        box = F.smooth_l1_loss(offsets[objects, labels[objects] - 1], wanted, reduction="sum", beta=1.0)
        count = max(1, len(labels))
        return {"class": F.cross_entropy(logits, labels, reduction="sum") / count, "box": box / count}

    def _detections(self, batch: Mapping[str, Any], images: ImageList, maps: Tensor) -> Detections:
        proposals = required_proposals(batch, "FastRCNN")
        logits, offsets = self._judge(batch, images, maps, proposals)
        counts = [len(boxes) for boxes in proposals]
        scores = logits.softmax(1)[:, 1:]
        boxes = decode(offsets, torch.cat(proposals).float()[:, None])
        limits = (self.score_threshold, self.nms_threshold, self.max_detections)
        return [
            detections(one, score, image.shape[-2:], *limits)
            for one, score, image in zip(boxes.split(counts), scores.split(counts), batch["image"], strict=True)
        ]

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self._losses(batch, *self._maps(batch))

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        return self._detections(batch, *self._maps(batch))

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        images, maps = self._maps(batch)
        with repeatable(maps.device):
            losses = self._losses(batch, images, maps)
        return losses, self._detections(batch, images, maps)
