"""SSD (Liu et al. 2016): default boxes on maps of ever coarser scale, all judged in a single shot."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
from darkroom.lightning_modules.detection.base import Detections, ObjectDetection
from darkroom.lightning_modules.detection.boxes import decode, detections, encode
from darkroom.lightning_modules.detection.torchvision.pyramid import Norm, backbone, load_agreeing, published
from darkroom.lightning_modules.layers.backbones import IMAGENET_MEAN, IMAGENET_STD, scaled
from darkroom.lightning_modules.utils.distributed import mean_over_ranks

Sizes = Literal["voc", "coco"]
Start = Literal["imagenet", "coco"]

# The authors' VGG16, which comes from Caffe, expects images in [0, 255] without this colour (here in [0, 1]).
_CAFFE_MEAN = (0.48235, 0.45882, 0.40784)
# Pixels between default boxes where they are not what the maps' sides say (the authors' code).
_STEPS = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}
# Where torchvision's detector has the layers that are ours.
_THEIRS = {
    r"backbone\.scale_weight": "rescale.weight",
    r"backbone\.features\.": "body.features.",
    r"backbone\.extra\.0\.7\.": "fc.",
    r"backbone\.extra\.0\.(\d)\.": lambda place: f"body.features.{23 + int(place[1])}.",
    r"backbone\.extra\.(\d)\.": lambda place: f"extra.{int(place[1]) - 1}.",
}
# Of each class the best that go into non-maximum suppression (section 3.7 leaves it open; the authors' code).
_TOP = 400


class L2Norm(nn.Module):
    """Scales the channels of every pixel to unit length, then each by a learnt factor (Liu et al. 2016, section 3.1)."""

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x) * self.weight.view(1, -1, 1, 1)


def box_sizes(data: Sizes, maps: int) -> list[float]:
    """Sizes of default boxes on so many maps as parts of the image's side, and one more for the last map's larger square.

    Equation 4 with the authors' rounding: from 0.2 to 0.9 for VOC, from 0.15 for COCO, and 0.05 less where there are more
    than six maps (SSD512); the first map's are about half of that.
    """
    low = {"voc": 20, "coco": 15}[data] - 5 * (maps > 6)
    first = {20: 10, 15: 7, 10: 4}[low]
    step = (90 - low) // max(1, maps - 2)
    return [first / 100, *((low + step * index) / 100 for index in range(maps))]


class SSDNetwork(nn.Module):
    """A classifier's body, more layers down to a map of one cell, and on each map offsets and classes of its default boxes.

    (B, 3, S, S) in [0, 1] -> offsets (B, P, 4) from the P ``default_boxes`` xyxy, and logits (B, P, K + 1), background
    first. A VGG is the paper's: conv4_3, rescaled; fc6, with holes, and fc7 as convolutions; 8,732 default boxes at 300
    pixels, 24,564 at 512. Of others it takes the maps of stride 8, 16 and 32.

    Args:
        num_classes: K, without the background.
        backbone_name: a classifier of torchvision, see ``layers.pyramid.backbone``.
        image_size: S.
        sizes: of the default boxes: the authors' for VOC or COCO, or, in pixels, one for each map and one more.
        width, weights, norm, frozen_stages: as in SSD.
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
            raise UsageError(f"model.image_size is {image_size}; SSD needs at least 64 pixels")
        if weights == "coco" and (backbone_name, image_size, sizes, width) != ("vgg16", 300, "coco", 1):
            raise UsageError(
                "model.weights coco are of backbone vgg16, image_size 300, sizes coco and width 1, not of "
                f"{backbone_name}, {image_size}, {sizes} and {width}; take these, or imagenet"
            )
        vgg = backbone_name.startswith("vgg")
        start = "imagenet" if weights == "imagenet" and not (backbone_name == "vgg16" and width == 1) else None
        self.body, channels = backbone(backbone_name, (3, 4) if vgg else (3, 4, 5), width, start, norm, frozen_stages)
        if vgg:  # 75 pixels become 38, not 37
            [layer for layer in self.body.modules() if isinstance(layer, nn.MaxPool2d)][2].ceil_mode = True
        self.rescale = L2Norm(channels[0]) if vgg else nn.Identity()
        self.fc = _fully_connected(channels[-1], scaled(1024, width)) if vgg else nn.Identity()
        channels[-1] = scaled(1024, width) if vgg else channels[-1]
        sides = _sides(self.body, image_size)
        self.extra = nn.ModuleList()
        while sides[-1] > 1:
            out = scaled(256 if self.extra else 512, width)
            layers, side = _smaller(channels[-1], out // 2, out, sides[-1])
            self.extra.append(layers)
            channels.append(out)
            sides.append(side)
        boxes = _generator(sizes, image_size, len(sides), vgg)
        self.head = SSDHead(channels, boxes.num_anchors_per_location(), num_classes + 1)
        self.register_buffer("default_boxes", _on_maps(boxes, image_size, sides), persistent=False)
        mean = _CAFFE_MEAN if backbone_name == "vgg16" else IMAGENET_MEAN
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        if weights == "coco":
            self.load_caffe(published(SSD300_VGG16_Weights.COCO_V1))
        elif weights == "imagenet" and start is None:
            self.load_caffe(published(VGG16_Weights.IMAGENET1K_FEATURES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first, *maps = self.body((images - self.mean) / self.std).values()
        maps[-1] = self.fc(maps[-1])
        for layers in self.extra:
            maps.append(layers(maps[-1]))
        answers = self.head([self.rescale(first), *maps])
        return answers["bbox_regression"].float(), answers["cls_logits"].float()

    def load_caffe(self, state: dict[str, Tensor]) -> None:
        """Weights of VGG16 that take images in [0, 255]: alone, or in torchvision's detector, whose classes stay out."""
        state = {_ours(name): value for name, value in state.items() if not name.startswith("classifier")}
        first = "body.features.0.weight"
        state[first] = state[first] * 255 * self.std.to(state[first])
        if any(name.startswith("head") for name in state):
            load_agreeing(self, state)
        else:
            self.body.load_state_dict(
                {name.removeprefix("body."): value for name, value in state.items()}, strict=False
            )


def _ours(name: str) -> str:
    """Our name of a weight of torchvision's detector or classifier."""
    name = f"body.{name}" if name.startswith("features") else name
    for pattern, new in _THEIRS.items():
        if re.match(pattern, name):
            return re.sub(pattern, new, name, count=1)
    return name


def _convolutions(*layers: nn.Module) -> nn.Sequential:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _fully_connected(channels: int, hidden: int) -> nn.Sequential:
    """VGG's fully connected layers as convolutions, the first one with holes, after a pooling that keeps the stride."""
    wide = nn.Conv2d(channels, hidden, 3, padding=6, dilation=6)
    return _convolutions(nn.MaxPool2d(3, 1, 1), wide, nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU())


def _smaller(channels: int, hidden: int, out: int, side: int) -> tuple[nn.Sequential, int]:
    """The next, smaller map, and its side: 19, 10, 5, 3, 1 in SSD300; 32, 16, 8, 4, 2, 1 in SSD512."""
    if side in (3, 5):
        shape, smaller = {"kernel_size": 3}, side - 2
    elif side == 2:
        shape, smaller = {"kernel_size": 4, "padding": 1}, 1
    else:
        shape, smaller = {"kernel_size": 3, "stride": 2, "padding": 1}, (side + 1) // 2
    squeeze = nn.Conv2d(channels, hidden, 1)
    return _convolutions(squeeze, nn.ReLU(), nn.Conv2d(hidden, out, **shape), nn.ReLU()), smaller


@torch.no_grad()
def _sides(body: nn.Module, image_size: int) -> list[int]:
    """Sides of the body's maps."""
    maps = copy.deepcopy(body).to("meta").eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    return [map_.shape[-1] for map_ in maps.values()]


def _generator(sizes: Sizes | Sequence[float], image_size: int, maps: int, vgg: bool) -> DefaultBoxGenerator:
    """Default boxes: two squares and aspect ratios of 2, on all but the first and the last two maps of 3 too."""
    parts = box_sizes(sizes, maps) if isinstance(sizes, str) else [size / image_size for size in sizes]
    if len(parts) != maps + 1 or sorted(parts) != parts:
        raise UsageError(
            f"model.sizes is {list(sizes)}; at {image_size} pixels it has to be {maps + 1} sizes in pixels, ascending: for "
            f"each of {maps} maps one, and one more"
        )
    ratios = [[2] if index in (0, maps - 2, maps - 1) else [2, 3] for index in range(maps)]
    steps = _STEPS.get(image_size) if vgg else None
    return DefaultBoxGenerator(ratios, scales=parts, steps=list(steps) if steps else None)


def _on_maps(boxes: DefaultBoxGenerator, image_size: int, sides: Sequence[int]) -> Tensor:
    """The default boxes (P, 4) of maps with these sides."""
    with torch.device("cpu"):  # which the generator relies on
        image = ImageList(torch.empty(1, 3, image_size, image_size), [(image_size, image_size)])
        return boxes(image, [torch.empty(1, 1, side, side) for side in sides])[0]


# --- the loss -----------------------------------------------------------------------------------------------------------


def assign(default_boxes: Tensor, boxes: Tensor, threshold: float = 0.5) -> Tensor:
    """Which true box each default box answers for (section 2.2): the best one with an IoU above the threshold; and every
    true box has one default box, that with the highest IoU which no other true box has a better claim to.

    Args:
        default_boxes: (P, 4).
        boxes: (N, 4).
        threshold: IoU.

    Returns:
        int64 (P,), -1 for the background.
    """
    count = min(len(boxes), len(default_boxes))
    if not count:
        return torch.full((len(default_boxes),), -1, device=default_boxes.device)
    iou = box_iou(boxes, default_boxes)
    best, index = iou.max(0)
    index[best <= threshold] = -1
    for _ in range(count):  # without a look at the values, for which a GPU would have to wait
        place = iou.argmax(keepdim=True).flatten()
        box, default_box = place // len(default_boxes), place % len(default_boxes)
        index[default_box] = box
        iou.index_fill_(0, box, -1).index_fill_(1, default_box, -1)
    return index


def hard_negatives(losses: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    """The default boxes of the background with the highest losses, up to ``ratio`` for each positive one of the image.

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
    offsets: Tensor, logits: Tensor, default_boxes: Tensor, targets: Sequence[Mapping[str, Tensor]], ratio: float = 3.0
) -> dict[str, Tensor]:
    """Equation 1: smooth L1 of the offsets (``box``) and cross-entropy (``class``), over the number of the batch's matches
    (in training on several ranks over that of the mean rank).

    Args:
        offsets: (B, P, 4).
        logits: (B, P, K + 1), background first.
        default_boxes: (P, 4) xyxy.
        targets: ``boxes`` (N, 4) in the same pixels, ``labels`` (N,) from 1.
        ratio: of hard negatives to matches.
    """
    labels, wanted = [], []
    for target in targets:
        index = assign(default_boxes, target["boxes"])
        # The background's index, -1, is the row that is added: of label 0.
        boxes, classes = F.pad(target["boxes"], (0, 0, 0, 1)), F.pad(target["labels"], (0, 1))
        labels.append(classes[index])
        wanted.append(encode(torch.where(index[:, None] < 0, default_boxes, boxes[index]), default_boxes))
    labels = torch.stack(labels)
    positive = labels > 0
    box = F.smooth_l1_loss(offsets, torch.stack(wanted), reduction="none").sum(-1)
    class_ = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    chosen = positive | hard_negatives(class_, positive, ratio)
    matches = mean_over_ranks(positive.sum())
    matches = matches.where(matches > 0, 1)
    return {
        "box": torch.where(positive, box, 0).sum() / matches,
        "class": torch.where(chosen, class_, 0).sum() / matches,
    }


# --- the technique ------------------------------------------------------------------------------------------------------


class SSD(ObjectDetection):
    """Single Shot MultiBox Detector (Liu et al. 2016): default boxes of several sizes and shapes on every map.

    Images are warped to ``image_size``, whatever their aspect; boxes come back in pixels of the images. An image without
    objects has no matches, and so no hard negatives: it adds nothing to the loss.

    Args:
        num_classes: classes of objects, without the background; the command line takes it from the data.
        backbone: a classifier of torchvision whose maps halve; the paper's is vgg16.
        image_size: side in pixels; the paper's are 300 and 512.
        sizes: of the default boxes: the authors' for voc or coco, at any ``image_size``; or in pixels, ascending: one for
            each map and one more.
        width: factor on the channels of every layer.
        weights: imagenet: start the backbone from torchvision's weights (of vgg16 the authors' own); coco: start from
            torchvision's whole detector, but for its classes: vgg16, 300 pixels, sizes coco, width 1.
        norm: batch, or frozen: statistics and factors of batch norms stay as they are.
        frozen_stages: the backbone's layers up to a stride of 2^this do not learn.
        negatives: hard negatives for each match.
        score_threshold, nms_threshold, max_detections: see ``detections``; the paper's.
        **kwargs: optim, see Technique.
    """

    starts_from = ("weights",)

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
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        max_detections: int = 200,
        **kwargs: Any,
    ) -> None:
        network = SSDNetwork(num_classes or 1, backbone, image_size, sizes, width, weights, norm, frozen_stages)
        super().__init__(network, num_classes, masks=False, **kwargs)
        self.image_size, self.negatives = image_size, negatives
        self.score_threshold, self.nms_threshold, self.max_detections = score_threshold, nms_threshold, max_detections

    def forward(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Images, each float (3, H, W) in [0, 1] -> offsets (B, P, 4) and logits (B, P, K + 1) of the default boxes."""
        size = (self.image_size, self.image_size)
        warped = [F.interpolate(image[None], size, mode="bilinear", align_corners=False) for image in images]
        return self.network(torch.cat(warped).contiguous(memory_format=self.memory_format))

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self._losses(*self(batch["image"]), batch)

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        return self._detections(*self(batch["image"]), batch)

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        offsets, logits = self(batch["image"])
        return self._losses(offsets, logits, batch), self._detections(offsets, logits, batch)

    def _losses(self, offsets: Tensor, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        targets = [
            {"boxes": target["boxes"] * self._scale(image), "labels": target["labels"]}
            for image, target in zip(batch["image"], batch["target"], strict=True)
        ]
        return ssd_loss(offsets, logits, self.network.default_boxes, targets, self.negatives)

    def _detections(self, offsets: Tensor, logits: Tensor, batch: Mapping[str, Any]) -> Detections:
        boxes, scores = decode(offsets, self.network.default_boxes), logits.softmax(-1)[..., 1:]
        scores, best = scores.topk(min(_TOP, scores.shape[1]), 1)
        limits = (self.score_threshold, self.nms_threshold, self.max_detections)
        return [
            detections(one[index] / self._scale(image), score, image.shape[-2:], *limits)
            for one, index, score, image in zip(boxes, best, scores, batch["image"], strict=True)
        ]

    def _scale(self, image: Tensor) -> Tensor:
        """Factors (4,) that take boxes of an image to the warped one."""
        height, width = image.shape[-2:]
        return self.network.default_boxes.new_tensor([self.image_size / width, self.image_size / height]).repeat(2)
