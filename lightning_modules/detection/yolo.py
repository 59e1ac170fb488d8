"""YOLO, version 1 (Redmon, Divvala, Girshick, Farhadi 2016): one pass predicts all boxes and classes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.boxes import select_detections
from darkroom.lightning_modules.detection.export.graph import CandidateGraph, detection_graph
from darkroom.lightning_modules.detection.export.select import extents
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.types import Detections, Target
from darkroom.lightning_modules.layers.backbones import scale_channels
from darkroom.lightning_modules.layers.body import Body, FeatureBackbone, build_backbone
from darkroom.lightning_modules.layers.darknet import (
    CHANNELS,
    SLOPE,
    Layers,
    Preset,
    build_convolutions,
    build_yolo_features,
    init_leaky,
    uses_batch_norm,
)
from darkroom.lightning_modules.layers.pretrained import Weights, normalization_of
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols.export import ExportGraph

# --- the network ------------------------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """Convolutions added to the pretrained ones, their channels, and the layers after them."""

    added: Layers
    channels: int  # after the added convolutions
    boxes: int
    top: Literal["connected", "local", "none"]


_ADDED = ((1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1))
_PLANS: dict[Preset, _Plan] = {
    "paper": _Plan(_ADDED, 1024, boxes=2, top="connected"),
    "darknet": _Plan(_ADDED, 1024, boxes=3, top="local"),
    "tiny": _Plan(((256, 3, 1),), 256, boxes=2, top="none"),
}


class LocallyConnected2d(nn.Module):
    """Convolution without weight sharing: every cell of the map has its own weights. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: channels of the output.
        size: height and width of the map, which is padded with zeros.
        kernel_size: odd side of the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int], kernel_size: int = 3) -> None:
        super().__init__()
        self.size, self.kernel_size = size, kernel_size
        places, inputs = size[0] * size[1], in_channels * kernel_size**2
        self.weight = nn.Parameter(torch.empty(places, out_channels, inputs))
        self.bias = nn.Parameter(torch.empty(out_channels, places))
        init_leaky(self, inputs)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2)
        return (torch.einsum("bip,poi->bop", patches, self.weight) + self.bias).unflatten(-1, self.size)


class YOLONetwork(nn.Module):
    """Convolutions, then fully connected layers over the whole image. (B, C, H, W) -> (B, S, S, 5 B' + K).

    A cell of the output holds, for each of its B' boxes, x, y, sqrt(w), sqrt(h) and confidence, then K class
    probabilities: x and y of the centre from the cell's upper left corner in sides of the cell, w and h in sides of the
    image, all outputs of a linear layer. The network predicts the roots, as the authors' does: the paper's loss takes
    roots of w and h, which a negative output would not have.

    - ``paper``: 24 convolutions, two fully connected layers, dropout; 271,703,550 parameters as it is by default.
    - ``darknet``: the authors' later version: batch norm, a locally connected layer instead of the first fully
      connected one, 3 boxes per cell.
    - ``tiny``: their small version: 8 convolutions with batch norm and one fully connected layer. (Fast YOLO of the paper
      has 9, without batch norm.)

    The convolutions compute a map of 1/64 of the image's sides, rounded up; the last layer maps it to any grid.

    A ``backbone`` takes the place of the preset's pretrained convolutions. The preset's other layers follow its last map,
    which has 1/32 of the image's sides; those of ``tiny`` do not reduce it further. Images in [0, 1] are then normalized as
    the backbone's ImageNet weights expect, whether it starts from them or not.

    Args:
        in_channels: C.
        num_classes: K, without background.
        preset: one of the three.
        grid: S.
        boxes: B'; None: the preset's, 2 or 3.
        image_size: side of the images, or height and width, in pixels.
        width: factor on the channels of every layer but the last.
        backbone: ResNet, MobileNetV2 or EfficientNet-Lite0; None: the preset's own convolutions.
        weights: imagenet: start the backbone from ImageNet weights, at width 1.
    """

    features: nn.Sequential | Body
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 20,
        preset: Preset = "paper",
        grid: int = 7,
        boxes: int | None = None,
        image_size: int | tuple[int, int] = 448,
        width: float = 1.0,
        backbone: FeatureBackbone | None = None,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        plan = _PLANS[preset]
        height, columns = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.size = (height, columns)
        self.grid, self.boxes, self.num_classes = grid, plan.boxes if boxes is None else boxes, num_classes
        if min(*self.size, grid, self.boxes) < 1 or width <= 0:
            raise UsageError(
                "model.image_size, model.grid and model.boxes must be at least 1 and model.width above 0, got "
                f"{image_size}, {grid}, {boxes} and {width}"
            )
        if backbone is not None:
            self.features = build_backbone(backbone, (5,), width, weights=weights, in_channels=in_channels)
            channels = self.features.channels[-1]
            statistics = normalization_of(backbone).adapt(in_channels).tensors()
            for name, values in zip(("mean", "std"), statistics, strict=True):
                self.register_buffer(name, values, persistent=False)
        elif weights is not None:
            raise UsageError(
                "model.weights must be null without model.backbone: ImageNet weights of YOLO's own convolutions are not "
                "published"
            )
        else:
            self.features = build_yolo_features(preset, in_channels, width)
            channels = scale_channels(CHANNELS, width)
        self.added = build_convolutions(plan.added, channels, width, uses_batch_norm(preset))
        channels = scale_channels(plan.channels, width)
        stride = 32 if backbone is not None and preset == "tiny" else 64
        height, columns = math.ceil(height / stride), math.ceil(columns / stride)
        self.top = nn.Sequential()
        if plan.top == "local":
            local = LocallyConnected2d(channels, scale_channels(256, width), (height, columns))
            self.top.extend([local, nn.LeakyReLU(SLOPE), nn.Dropout(0.5)])
            channels = scale_channels(256, width)
        inputs = channels * height * columns
        if plan.top == "connected":
            connected = init_leaky(nn.Linear(inputs, scale_channels(4096, width)), inputs)
            self.top.extend([nn.Flatten(), connected, nn.LeakyReLU(SLOPE), nn.Dropout(0.5)])
            inputs = scale_channels(4096, width)
        self.output = nn.Linear(inputs, grid * grid * (5 * self.boxes + num_classes))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.size:
            raise UsageError(
                f"images must be {self.size[0]} x {self.size[1]} pixels, got {x.shape[-2]} x {x.shape[-1]}; set "
                "model.image_size, or resize them"
            )
        x = self.top(self.added(self._compute_features(x)))
        return self.output(x.flatten(1)).view(x.shape[0], self.grid, self.grid, -1)

    def _compute_features(self, x: Tensor) -> Tensor:
        if isinstance(self.features, Body):
            return self.features.last_map((x - self.mean) / self.std)
        return self.features(x)


# --- boxes and cells --------------------------------------------------------------------------------------------------


def _corners(predicted: Tensor) -> Tensor:
    """Convert predictions of cells x, y, sqrt(w), sqrt(h), (B, S, S, B', 4), to boxes xyxy in fractions of the image."""
    places = torch.arange(predicted.shape[1], device=predicted.device, dtype=predicted.dtype)
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    centres = (predicted[..., :2] + torch.stack([columns, rows], -1)[:, :, None]) / len(places)
    half = predicted[..., 2:].square() / 2
    return torch.cat([centres - half, centres + half], -1)


def decode(output: Tensor, boxes: int) -> tuple[Tensor, Tensor]:
    """Decode a network's output to boxes and scores of every class.

    Args:
        output: (B, S, S, 5 B' + K), see YOLONetwork.
        boxes: B'.

    Returns:
        boxes (B, S S B', 4), xyxy in fractions of the image, and scores (B, S S B', K) in [0, 1]: Pr(class | object) times
        the confidence (equation 1); a factor below 0 counts as 0.
    """
    predicted, classes = _split(output, boxes)
    scores = predicted[..., 4:].clamp(min=0) * classes[..., None, :].clamp(min=0)
    return _corners(predicted[..., :4]).flatten(1, 3), scores.clamp(max=1).flatten(1, 3)


def _split(output: Tensor, boxes: int) -> tuple[Tensor, Tensor]:
    """Split a network's output into boxes (B, S, S, B', 5) and classes (B, S, S, K), float32."""
    predicted, classes = output.float().split([5 * boxes, output.shape[-1] - 5 * boxes], -1)
    return predicted.unflatten(-1, (boxes, 5)), classes


def encode(targets: Sequence[Target], sizes: Sequence[Sequence[int]], grid: int) -> tuple[Tensor, Tensor]:
    """Encode the targets of a batch as expected predictions of cells: each cell has the object whose centre lies in it.

    A cell has one object (section 2.4): of several the largest, of equal ones the first. A centre on the image's right or
    lower border belongs to the last cell.

    Args:
        targets: per image ``boxes`` (N, 4) xyxy in pixels and ``labels`` (N,) from 1.
        sizes: height and width of each image in pixels.
        grid: S.

    Returns:
        x, y, sqrt(w), sqrt(h) as the network predicts them (B, S, S, 4), and labels (B, S, S), 0 in cells without object.
    """
    counts = [len(target["labels"]) for target in targets]
    labels = torch.cat([target["labels"] for target in targets])
    boxes = torch.cat([target["boxes"].float() for target in targets])
    order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(descending=True, stable=True)
    images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts), output_size=len(labels)).to(boxes.device)
    boxes = boxes / boxes.new_tensor([[width, height] * 2 for height, width in sizes])[images]

    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 * grid
    corners = centres.floor().clamp(0, grid - 1)
    columns, rows = corners.long().unbind(1)
    cells = (images * grid + rows) * grid + columns

    # The first object of each cell in this order; the row after the last one means no object.
    first = torch.full((len(counts) * grid**2,), len(order), device=boxes.device)
    first = first.scatter_reduce(0, cells[order], torch.arange(len(order), device=boxes.device), "amin")
    expected = torch.cat([centres - corners, sides.sqrt()], 1)
    expected = torch.cat([expected[order], expected.new_zeros(1, 4)])[first]
    labels = torch.cat([labels[order], labels.new_zeros(1)])[first]
    return expected.view(-1, grid, grid, 4), labels.view(-1, grid, grid)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute IoU (...) of pairs of boxes (..., 4)."""
    inner = (torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])).clamp(
        min=0
    )
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, others)]
    both = inner.prod(-1)
    return both / (areas[0] + areas[1] - both).clamp(min=1e-12)


# --- the loss ---------------------------------------------------------------------------------------------------------


def yolo_loss(
    output: Tensor,
    targets: Sequence[Target],
    sizes: Sequence[Sequence[int]],
    boxes: int = 2,
    lambda_coord: float = 5.0,
    lambda_noobj: float = 0.5,
) -> dict[str, Tensor]:
    """Compute the five terms of equation 3, each a sum of squared errors over an image, averaged over the batch.

    One box of an object's cell is responsible: the one with the highest IoU or, if none overlaps the object, with the
    least squared distance in x, y, w and h. Its target confidence is its IoU, through which no gradient flows. The target
    confidence of all other boxes, in cells with and without objects, is 0.

    Args:
        output: (B, S, S, 5 B' + K), see YOLONetwork.
        targets: per image ``boxes`` (N, 4) xyxy in pixels and ``labels`` (N,) from 1 to K.
        sizes: height and width of each image in pixels.
        boxes: B'.
        lambda_coord: weight of ``xy`` and ``wh``.
        lambda_noobj: weight of ``no_object``.

    Returns:
        ``xy``, ``wh``, ``object``, ``no_object``, ``classes``: scalars, float32, weighted; their sum is the loss.
    """
    predicted, classes = _split(output, boxes)
    truth, labels = encode(targets, sizes, output.shape[1])
    truth, occupied = truth[..., None, :], (labels > 0).float()  # 1_i^obj
    iou, best = _best_boxes(predicted[..., :4].detach(), truth)
    responsible = best * occupied[..., None]  # 1_ij^obj
    errors, confidence = (predicted[..., :4] - truth).square(), predicted[..., 4]
    one_hot = F.one_hot(labels, classes.shape[-1] + 1)[..., 1:]
    sums = {
        "xy": lambda_coord * (responsible * errors[..., :2].sum(-1)).sum(),
        "wh": lambda_coord * (responsible * errors[..., 2:].sum(-1)).sum(),
        "object": (responsible * (confidence - iou).square()).sum(),
        "no_object": lambda_noobj * ((1 - responsible) * confidence.square()).sum(),
        "classes": (occupied * (classes - one_hot).square().sum(-1)).sum(),
    }
    return {name: total / len(output) for name, total in sums.items()}


def _best_boxes(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU (B, S, S, B') of predictions (B, S, S, B', 4) and truth (B, S, S, 1, 4), and the best box one-hot."""
    iou = _iou(_corners(predicted), _corners(truth))
    centres = (predicted[..., :2] - truth[..., :2]) / predicted.shape[1]
    sides = predicted[..., 2:].square() - truth[..., 2:].square()
    distance = centres.square().sum(-1) + sides.square().sum(-1)
    best = torch.where((iou > 0).any(-1), iou.argmax(-1), distance.argmin(-1))
    return iou, F.one_hot(best, predicted.shape[-2]).float()


# --- the method -------------------------------------------------------------------------------------------------------


class YOLO(ObjectDetection):
    """You Only Look Once (Redmon et al. 2016): every cell of a grid predicts the object whose centre lies in it.

    Images are warped to ``image_size``, whatever their aspect; detections are at the images' own size. Images are not
    normalized, as in the authors' code, unless there is a ``backbone``. A cell predicts one class only and is trained on
    one object of an image: see ``encode``.

    Args:
        in_channels: channels of the images.
        num_classes: classes of objects, without the background; the command line takes it from the data.
        preset: the paper's network, the authors' later one (darknet) or their small one (tiny), see YOLONetwork.
        grid: S, cells along each side of the image.
        boxes: boxes that each cell predicts; None: the preset's, 2 or, darknet, 3.
        image_size: side, or height and width, in pixels, to which images are warped.
        width: factor on the channels of every layer.
        lambda_coord: weight of the loss of places and sizes.
        lambda_noobj: weight of the confidence of boxes without object.
        backbone: ResNet, MobileNetV2 or EfficientNet-Lite0 instead of the preset's pretrained convolutions; images are then
            normalized as its ImageNet weights expect. None: the preset's own.
        weights: imagenet: start the backbone from ImageNet weights, at width 1.
        inference: which candidates become detections; by default the authors' values for evaluation: score_threshold 0.001,
            low enough for the whole precision-recall curve, nms_threshold 0.5, max_detections 200. For figures they use
            score_threshold 0.2.
        optim, init_from: see Technique; the authors pretrain the first convolutions (``features``) as a classifier.
    """

    initial_weight_arguments = ("weights",)
    network: YOLONetwork
    default_limits: ClassVar[Limits] = Limits(score_threshold=0.001, nms_threshold=0.5, max_detections=200)

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int | None = None,
        preset: Preset = "paper",
        grid: int = 7,
        boxes: int | None = None,
        image_size: int | tuple[int, int] = 448,
        width: float = 1.0,
        lambda_coord: float = 5.0,
        lambda_noobj: float = 0.5,
        backbone: FeatureBackbone | None = None,
        weights: Weights | None = None,
        inference: DetectionInference | None = None,
        **kwargs: Any,
    ) -> None:
        network = YOLONetwork(
            in_channels=in_channels,
            num_classes=num_classes or 20,
            preset=preset,
            grid=grid,
            boxes=boxes,
            image_size=image_size,
            width=width,
            backbone=backbone,
            weights=weights,
        )
        super().__init__(network, num_classes=num_classes, masks=False, inference=inference, **kwargs)
        if backbone is not None:
            self.own_normalization = normalization_of(backbone).adapt(in_channels)
        self.lambda_coord, self.lambda_noobj = lambda_coord, lambda_noobj

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Map images, each float (C, H, W) in [0, 1], to predictions of cells (B, S, S, 5 B' + K)."""
        size = self.network.size
        warped = [
            F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True) for image in images
        ]
        return self.network(torch.cat(warped).contiguous(memory_format=self.memory_format))

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute boxes (B, S S B', 4) in pixels and scores (B, S S B', K) of images (B, C, H, W) in [0, 1]."""
        warped = F.interpolate(image, self.network.size, mode="bilinear", align_corners=False, antialias=True)
        boxes, scores = decode(self.network(warped), self.network.boxes)
        return boxes * extents(*image.shape[-2:]), scores

    def whole_image_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images to detections."""
        height, width = self.network.size
        resizing = f"the graph warps images to {height} x {width} pixels; boxes are in pixels of the image"
        return detection_graph(CandidateGraph(self, normalization), self.limits, len(normalization[0]), resizing)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the loss terms of equation 3."""
        return self._losses(self(batch["image"]), batch)

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """Detect the objects of a batch, one dict per image."""
        return self._detections(self(batch["image"]), batch)

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Compute loss terms and detections from one pass of the network."""
        output = self(batch["image"])
        return self._losses(output, batch), self._detections(output, batch)

    def _losses(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        sizes = [image.shape[-2:] for image in batch["image"]]
        return yolo_loss(
            output,
            batch["target"],
            sizes,
            boxes=self.network.boxes,
            lambda_coord=self.lambda_coord,
            lambda_noobj=self.lambda_noobj,
        )

    def _detections(self, output: Tensor, batch: Mapping[str, Any]) -> Detections:
        boxes, scores = decode(output, self.network.boxes)
        found = []
        for fractions, score, image in zip(boxes, scores, batch["image"], strict=True):
            height, width = image.shape[-2:]
            pixels = fractions * fractions.new_tensor([width, height, width, height])
            found.append(select_detections(pixels, score, (height, width), self.limits))
        return found
