"""SSD (Liu et al. 2016): default boxes on maps of decreasing resolution, classified in a single shot."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG16_Weights
from torchvision.models.detection import SSD300_VGG16_Weights
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops import box_iou

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.boxes import decode, encode, select_detections
from darkroom.lightning_modules.detection.export.graph import CandidateGraph, detection_graph
from darkroom.lightning_modules.detection.export.select import extents
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.torchvision.pyramid import load_matching_weights
from darkroom.lightning_modules.detection.types import Detections, Target
from darkroom.lightning_modules.layers.backbones import scale_channels, zero_bias
from darkroom.lightning_modules.layers.body import Norm, build_backbone
from darkroom.lightning_modules.layers.pretrained import Normalization, Weights, normalization_of
from darkroom.lightning_modules.utils.distributed import mean_over_ranks
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.torchvision_weights import fetch_weights
from darkroom.protocols.export import ExportGraph

Sizes = Literal["voc", "coco"]
Start = Literal["imagenet", "coco"]

# Mean that the authors' VGG16, a Caffe model, subtracts from images in [0, 255] (given here in [0, 1]).
_CAFFE_MEAN = (0.48235, 0.45882, 0.40784)
# Pixels between default boxes where they differ from image side / map side (the authors' code).
_STEPS = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}
# Name of a layer in torchvision's detector -> our name.
_RENAMED: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"backbone\.scale_weight": "rescale.weight",
    r"backbone\.features\.": "body.features.",
    r"backbone\.extra\.0\.7\.": "fc.",
    r"backbone\.extra\.0\.(\d)\.": lambda place: f"body.features.{23 + int(place[1])}.",
    r"backbone\.extra\.(\d)\.": lambda place: f"extra.{int(place[1]) - 1}.",
}
# Best candidates of each class before non-maximum suppression (section 3.7 does not state it; the authors' code).
_TOP = 400


class L2Norm(nn.Module):
    """L2 normalization of every pixel's channels, then a learned factor per channel (Liu et al. 2016, section 3.1)."""

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x) * self.weight.view(1, -1, 1, 1)


def box_sizes(data: Sizes, maps: int) -> list[float]:
    """Return the sizes of default boxes as fractions of the image's side: one per map, and one for the last larger square.

    Equation 4 with the authors' rounding: from 0.2 to 0.9 for VOC, from 0.15 for COCO, and 0.05 less for more than six maps
    (SSD512); the first map's size is about half of that.
    """
    low = {"voc": 20, "coco": 15}[data] - 5 * (maps > 6)
    first = {20: 10, 15: 7, 10: 4}[low]
    step = (90 - low) // max(1, maps - 2)
    return [first / 100, *((low + step * index) / 100 for index in range(maps))]


class SSDNetwork(nn.Module):
    """Classifier's body, further layers down to a map of one cell, and on each map a head for its default boxes.

    (B, 3, S, S) in [0, 1] -> offsets (B, P, 4) from the P ``default_boxes`` xyxy, and logits (B, P, K + 1), background
    first. A VGG is used as in the paper: conv4_3, rescaled; dilated fc6 and fc7 as convolutions; 8,732 default boxes at 300
    pixels, 24,564 at 512. Other classifiers provide the maps of stride 8, 16 and 32.

    Args:
        num_classes: K, without the background.
        backbone_name: efficientnet_lite0, or a classifier of torchvision, see ``build_backbone``.
        image_size: S.
        sizes: of the default boxes: the authors' for VOC or COCO; or in pixels, one for each map and one more.
        width, weights, norm, frozen_stages: as in SSD.

    Attributes:
        normalization: of the images, by the network itself.
    """

    mean: Tensor
    std: Tensor
    default_boxes: Tensor

    def __init__(
        self,
        num_classes: int = 20,
        backbone_name: str = "vgg16",
        image_size: int = 300,
        sizes: Sizes | Sequence[float] = "voc",
        width: float = 1.0,
        weights: Start | None = None,
        norm: Norm = "batch",
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        if image_size < 64:
            raise UsageError(f"model.image_size must be at least 64 pixels, got {image_size}")
        if weights == "coco" and (backbone_name, image_size, sizes, width) != ("vgg16", 300, "coco", 1):
            raise UsageError(
                "model.weights coco needs backbone vgg16, image_size 300, sizes coco and width 1, got "
                f"{backbone_name}, {image_size}, {sizes} and {width}; set these, or use imagenet"
            )
        vgg = backbone_name.startswith("vgg")
        caffe = weights == "imagenet" and backbone_name == "vgg16" and width == 1
        start: Weights | None = "imagenet" if weights == "imagenet" and not caffe else None
        self.body = build_backbone(
            backbone_name,
            levels=(3, 4) if vgg else (3, 4, 5),
            width=width,
            weights=start,
            norm=norm,
            frozen_stages=frozen_stages,
        )
        channels = list(self.body.channels)
        if vgg:  # 75 pixels become 38, not 37
            [layer for layer in self.body.modules() if isinstance(layer, nn.MaxPool2d)][2].ceil_mode = True
        self.rescale = L2Norm(channels[0]) if vgg else nn.Identity()
        self.fc = _fully_connected(channels[-1], scale_channels(1024, width)) if vgg else nn.Identity()
        channels[-1] = scale_channels(1024, width) if vgg else channels[-1]
        sides = _sides(self.body, image_size)
        self.extra = nn.ModuleList()
        while sides[-1] > 1:
            out = scale_channels(256 if self.extra else 512, width)
            layers, side = _build_smaller_map(channels[-1], out // 2, out, sides[-1])
            self.extra.append(layers)
            channels.append(out)
            sides.append(side)
        boxes = _build_generator(sizes, image_size, len(sides), vgg, clip=weights == "coco")
        self.head = SSDHead(channels, boxes.num_anchors_per_location(), num_classes + 1)
        self.register_buffer("default_boxes", _place_boxes(boxes, image_size, sides), persistent=False)
        normalization = normalization_of(backbone_name)
        if backbone_name == "vgg16":
            normalization = Normalization(_CAFFE_MEAN, normalization.std)
        self.normalization = normalization
        for name, values in zip(("mean", "std"), normalization.tensors(), strict=True):
            self.register_buffer(name, values, persistent=False)
        if weights == "coco":
            self.load_caffe(fetch_weights(SSD300_VGG16_Weights.COCO_V1))
        elif caffe:
            self.load_caffe(fetch_weights(VGG16_Weights.IMAGENET1K_FEATURES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first, *maps = self.body((images - self.mean) / self.std).values()
        maps[-1] = self.fc(maps[-1])
        for layers in self.extra:
            maps.append(layers(maps[-1]))
        outputs = self.head([self.rescale(first), *maps])
        return outputs["bbox_regression"].float(), outputs["cls_logits"].float()

    def load_caffe(self, state: dict[str, Tensor]) -> None:
        """Load weights for images in [0, 255]: of VGG16, or of torchvision's whole detector except its classes."""
        state = {_rename(name): value for name, value in state.items() if not name.startswith("classifier")}
        first = "body.features.0.weight"
        state[first] = state[first] * 255 * self.std.to(state[first])
        if any(name.startswith("head") for name in state):
            load_matching_weights(self, state)
        else:
            self.body.load_state_dict(
                {name.removeprefix("body."): value for name, value in state.items()}, strict=False
            )


def _rename(name: str) -> str:
    """Return our name of a weight of torchvision's detector or classifier."""
    name = f"body.{name}" if name.startswith("features") else name
    for pattern, new in _RENAMED.items():
        if re.match(pattern, name):
            return re.sub(pattern, new, name, count=1)
    return name


def _initialize(*layers: nn.Module) -> nn.Sequential:
    """Initialize convolutions as the authors do; return the layers in sequence."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            zero_bias(layer)
    return nn.Sequential(*layers)


def _fully_connected(channels: int, hidden: int) -> nn.Sequential:
    """Build VGG's fully connected layers as convolutions, the first one dilated, after a pooling of stride 1."""
    wide = nn.Conv2d(channels, hidden, 3, padding=6, dilation=6)
    return _initialize(nn.MaxPool2d(3, 1, 1), wide, nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU())


def _build_smaller_map(channels: int, hidden: int, out: int, side: int) -> tuple[nn.Sequential, int]:
    """Build the layers to the next map; return its side too: 19, 10, 5, 3, 1 in SSD300; 32, 16, 8, 4, 2, 1 in SSD512."""
    kernel, stride, padding = (3, 1, 0) if side in (3, 5) else (4, 1, 1) if side == 2 else (3, 2, 1)
    smaller = (side + 2 * padding - kernel) // stride + 1
    squeeze = nn.Conv2d(channels, hidden, 1)
    return _initialize(squeeze, nn.ReLU(), nn.Conv2d(hidden, out, kernel, stride, padding), nn.ReLU()), smaller


@torch.no_grad()
def _sides(body: nn.Module, image_size: int) -> list[int]:
    """Return the sides of the body's maps."""
    maps = copy.deepcopy(body).to("meta").eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    return [map_.shape[-1] for map_ in maps.values()]


def _build_generator(
    sizes: Sizes | Sequence[float], image_size: int, maps: int, vgg: bool, clip: bool
) -> DefaultBoxGenerator:
    """Build default boxes: two squares, aspect ratios of 2, and of 3 except on the first and the last two maps.

    The authors' sides may exceed the image; those of torchvision's weights are clipped to it.
    """
    parts = box_sizes(sizes, maps) if isinstance(sizes, str) else [size / image_size for size in sizes]
    if len(parts) != maps + 1 or sorted(parts) != parts:
        raise UsageError(
            f"model.sizes must be {maps + 1} ascending sizes in pixels at image_size {image_size} (one for each of {maps} "
            f"maps, and one more), got {list(sizes)}"
        )
    ratios = [[2] if index in (0, maps - 2, maps - 1) else [2, 3] for index in range(maps)]
    steps = _STEPS.get(image_size) if vgg else None
    return DefaultBoxGenerator(ratios, scales=parts, steps=list(steps) if steps else None, clip=clip)


def clip_sides(boxes: Tensor, limit: float) -> Tensor:
    """Clip the sides of boxes (P, 4), xyxy, to a limit around their centres, as torchvision's generator does."""
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(max=limit)
    return torch.cat([centres - sides / 2, centres + sides / 2], 1)


def _place_boxes(boxes: DefaultBoxGenerator, image_size: int, sides: Sequence[int]) -> Tensor:
    """Place the default boxes (P, 4) on maps with these sides."""
    with torch.device("cpu"):  # the generator builds some of its tensors there
        image = ImageList(torch.empty(1, 3, image_size, image_size), [(image_size, image_size)])
        return boxes(image, [torch.empty(1, 1, side, side) for side in sides])[0]


# --- the loss -----------------------------------------------------------------------------------------------------------


def assign(default_boxes: Tensor, boxes: Tensor, threshold: float = 0.5) -> Tensor:
    """Match default boxes to true boxes (section 2.2).

    Each default box is matched to the true box of the highest IoU, if that is above the threshold. Each true box is also
    matched to one default box: greedily, the pair with the highest IoU first.

    Args:
        default_boxes: (P, 4).
        boxes: (N, 4).
        threshold: IoU.

    Returns:
        Index of the true box, int64 (P,), -1 for the background.
    """
    count = min(len(boxes), len(default_boxes))
    if not count:
        return torch.full((len(default_boxes),), -1, device=default_boxes.device)
    iou = box_iou(boxes, default_boxes)
    best, index = iou.max(0)
    index[best <= threshold] = -1
    for _ in range(count):  # values are not read on the CPU: that would synchronize with the GPU
        place = iou.argmax(keepdim=True).flatten()
        box, default_box = place // len(default_boxes), place % len(default_boxes)
        index[default_box] = box
        iou.index_fill_(0, box, -1).index_fill_(1, default_box, -1)
    return index


def select_hard_negatives(losses: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    """Select the background boxes with the highest losses, up to ``ratio`` for each positive box of the image.

    Args:
        losses: (B, P).
        positive: bool (B, P).
        ratio: 3 in the paper (section 2.2).

    Returns:
        bool (B, P), false wherever ``positive`` is true.
    """
    ranks = losses.detach().masked_fill(positive, float("-inf")).argsort(1, descending=True).argsort(1)
    return (ranks < ratio * positive.sum(1, keepdim=True)) & ~positive


def ssd_loss(
    offsets: Tensor, logits: Tensor, default_boxes: Tensor, targets: Sequence[Target], ratio: float = 3.0
) -> dict[str, Tensor]:
    """Compute equation 1: smooth L1 of the offsets (``box``) and cross-entropy (``class``), divided by the matches.

    Matches are counted over the batch; in training on several ranks their mean over the ranks is taken.

    Args:
        offsets: (B, P, 4).
        logits: (B, P, K + 1), background first.
        default_boxes: (P, 4) xyxy.
        targets: ``boxes`` (N, 4) in the same pixels, ``labels`` (N,) from 1.
        ratio: of hard negatives to matches.
    """
    class_ids, expected = [], []
    for target in targets:
        index = assign(default_boxes, target["boxes"])
        # Index -1, the background, selects the row that is added, with label 0.
        boxes, classes = F.pad(target["boxes"], (0, 0, 0, 1)), F.pad(target["labels"], (0, 1))
        class_ids.append(classes[index])
        expected.append(encode(torch.where(index[:, None] < 0, default_boxes, boxes[index]), default_boxes))
    labels = torch.stack(class_ids)
    positive = labels > 0
    box = F.smooth_l1_loss(offsets, torch.stack(expected), reduction="none").sum(-1)
    class_ = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    chosen = positive | select_hard_negatives(class_, positive, ratio)
    matches = mean_over_ranks(positive.sum())
    matches = matches.where(matches > 0, 1)
    return {
        "box": torch.where(positive, box, 0).sum() / matches,
        "class": torch.where(chosen, class_, 0).sum() / matches,
    }


# --- the method ---------------------------------------------------------------------------------------------------------


class SSD(ObjectDetection):
    """Single Shot MultiBox Detector (Liu et al. 2016): default boxes of several sizes and shapes on every map.

    Images are warped to ``image_size``, whatever their aspect; detections are in pixels of the images. An image without
    objects has no matches, and so no hard negatives: it adds nothing to the loss.

    Args:
        num_classes: classes of objects, without the background; the command line takes it from the data.
        backbone: efficientnet_lite0, or a classifier of torchvision whose maps halve; the paper's is vgg16.
        image_size: side in pixels; the paper's are 300 and 512.
        sizes: of the default boxes: the authors' for voc or coco, at any ``image_size``; or in pixels, ascending: one for
            each map and one more.
        width: factor on the channels of every layer.
        weights: imagenet: start the backbone from ImageNet weights (of vgg16 the authors' own); coco: start from
            torchvision's whole detector, except its classes: vgg16, 300 pixels, sizes coco, width 1.
        norm: batch, or frozen: statistics and factors of batch norms stay as they are.
        frozen_stages: the backbone's layers up to a stride of 2^this are frozen.
        negatives: hard negatives for each match.
        inference: which candidates become detections; by default the paper's score_threshold 0.01, nms_threshold 0.45,
            max_detections 200.
        optim, init_from: see Technique.
    """

    initial_weight_arguments = ("weights",)
    network: SSDNetwork
    default_limits: ClassVar[Limits] = Limits(score_threshold=0.01, nms_threshold=0.45, max_detections=200)

    def __init__(
        self,
        num_classes: int | None = None,
        backbone: str = "vgg16",
        image_size: int = 300,
        sizes: Sizes | Sequence[float] = "voc",
        width: float = 1.0,
        weights: Start | None = None,
        norm: Norm = "batch",
        frozen_stages: int = 0,
        negatives: float = 3.0,
        inference: DetectionInference | None = None,
        **kwargs: Any,
    ) -> None:
        network = SSDNetwork(
            num_classes=num_classes or 1,
            backbone_name=backbone,
            image_size=image_size,
            sizes=sizes,
            width=width,
            weights=weights,
            norm=norm,
            frozen_stages=frozen_stages,
        )
        super().__init__(network, num_classes=num_classes, masks=False, inference=inference, **kwargs)
        self.own_normalization = network.normalization
        self.image_size, self.negatives = image_size, negatives

    def forward(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute offsets (B, P, 4) and logits (B, P, K + 1) of the default boxes of images float (3, H, W) in [0, 1]."""
        size = (self.image_size, self.image_size)
        warped = [F.interpolate(image[None], size, mode="bilinear", align_corners=False) for image in images]
        return self.network(torch.cat(warped).contiguous(memory_format=self.memory_format))

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the best boxes (B, T, K, 4) of each class in pixels, and scores (B, T, K), of images (B, 3, H, W)."""
        size = (self.image_size, self.image_size)
        offsets, logits = self.network(F.interpolate(image, size, mode="bilinear", align_corners=False))
        boxes, scores = decode(offsets, self.network.default_boxes), logits.softmax(-1)[..., 1:]
        scores, best = scores.topk(min(_TOP, scores.shape[1]), 1)
        of_image = torch.arange(image.shape[0], device=image.device)[:, None, None]
        return boxes[of_image, best] * (extents(*image.shape[-2:]) / self.image_size), scores

    def whole_image_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images to detections."""
        resizing = (
            f"the graph warps images to {self.image_size} x {self.image_size} pixels; boxes are in pixels of the image"
        )
        return detection_graph(CandidateGraph(self, normalization), self.limits, len(normalization[0]), resizing)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the default boxes, which predictions are relative to."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["default_boxes"] = self.network.default_boxes.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the default boxes; those of the previous version had torchvision's clipped sides."""
        super().on_load_checkpoint(checkpoint)
        clipped = clip_sides(self.network.default_boxes, self.image_size)
        self.network.default_boxes = checkpoint.get("default_boxes", clipped).to(clipped.device)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the loss terms of the default boxes."""
        offsets, logits = self(batch["image"])
        return self._losses(offsets, logits, batch)

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """Detect the objects of a batch, one dict per image."""
        offsets, logits = self(batch["image"])
        return self._detections(offsets, logits, batch)

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Compute loss terms and detections from one pass of the network."""
        offsets, logits = self(batch["image"])
        return self._losses(offsets, logits, batch), self._detections(offsets, logits, batch)

    def _losses(self, offsets: Tensor, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        targets: list[Target] = [
            {"boxes": target["boxes"] * self._scale(image), "labels": target["labels"]}
            for image, target in zip(batch["image"], batch["target"], strict=True)
        ]
        return ssd_loss(offsets, logits, self.network.default_boxes, targets, self.negatives)

    def _detections(self, offsets: Tensor, logits: Tensor, batch: Mapping[str, Any]) -> Detections:
        boxes, scores = decode(offsets, self.network.default_boxes), logits.softmax(-1)[..., 1:]
        scores, best = scores.topk(min(_TOP, scores.shape[1]), 1)
        return [
            select_detections(one[index] / self._scale(image), score, image.shape[-2:], self.limits)
            for one, index, score, image in zip(boxes, best, scores, batch["image"], strict=True)
        ]

    def _scale(self, image: Tensor) -> Tensor:
        """Return the factors (4,) from boxes of an image to boxes of the warped image."""
        height, width = image.shape[-2:]
        return self.network.default_boxes.new_tensor([self.image_size / width, self.image_size / height]).repeat(2)
