"""YOLO, version 1 (Redmon, Divvala, Girshick, Farhadi 2016): a single look at the image gives all boxes and classes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import Detections, ObjectDetection
from darkroom.lightning_modules.detection.boxes import detections
from darkroom.lightning_modules.layers.backbones import scaled
from darkroom.lightning_modules.utils.load_weights import load_weights

Preset = Literal["paper", "darknet", "tiny"]

# --- the network ------------------------------------------------------------------------------------------------------

_POOL = None
_Layers = Sequence[tuple[int, int, int] | None]


class _Plan(NamedTuple):
    """Convolutions (channels, kernel, stride) and poolings, the pretrained and the added ones, and what follows them."""

    features: _Layers
    added: _Layers
    batch_norm: bool
    boxes: int
    top: Literal["connected", "local", "none"]


_GOOGLENET_LIKE = (
    (64, 7, 2), _POOL,
    (192, 3, 1), _POOL,
    (128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), _POOL,
    *((256, 1, 1), (512, 3, 1)) * 4, (512, 1, 1), (1024, 3, 1), _POOL,
    *((512, 1, 1), (1024, 3, 1)) * 2,
)  # fmt: skip
_ADDED = ((1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1))
_SMALL = tuple(layer for channels in (16, 32, 64, 128, 256, 512) for layer in ((channels, 3, 1), _POOL))
_PLANS = {
    "paper": _Plan(_GOOGLENET_LIKE, _ADDED, batch_norm=False, boxes=2, top="connected"),
    "darknet": _Plan(_GOOGLENET_LIKE, _ADDED, batch_norm=True, boxes=3, top="local"),
    "tiny": _Plan((*_SMALL, (1024, 3, 1)), ((256, 3, 1),), batch_norm=True, boxes=2, top="none"),
}
_SLOPE = 0.1  # of the leaky ReLU (equation 2)


def _started(layer: nn.Module, inputs: int) -> nn.Module:
    """The layer with weights that keep the variance through leaky ReLUs, and biases of 0."""
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (1 + _SLOPE**2) / inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _convolutions(plan: _Layers, channels: int, width: float, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in plan:
        if layer is _POOL:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # no pixel is lost where a side is odd
            continue
        (out, kernel, stride), out = layer, scaled(layer[0], width)
        convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=not batch_norm)
        layers += [_started(convolution, channels * kernel**2), *([nn.BatchNorm2d(out)] if batch_norm else [])]
        layers.append(nn.LeakyReLU(_SLOPE, inplace=True))
        channels = out
    return nn.Sequential(*layers)


class LocallyConnected2d(nn.Module):
    """A convolution whose weights are not shared: every place of the map has its own. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: channels of the result.
        size: height and width of the map, which is padded with zeros.
        kernel_size: odd side of the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int], kernel_size: int = 3) -> None:
        super().__init__()
        self.size, self.kernel_size = size, kernel_size
        places, inputs = size[0] * size[1], in_channels * kernel_size**2
        self.weight = nn.Parameter(torch.empty(places, out_channels, inputs))
        self.bias = nn.Parameter(torch.empty(out_channels, places))
        _started(self, inputs)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2)
        return (torch.einsum("bip,poi->bop", patches, self.weight) + self.bias).unflatten(-1, self.size)


class YOLONetwork(nn.Module):
    """Convolutions, then fully connected layers that see the whole image. (B, C, H, W) -> (B, S, S, 5 B' + K).

    A cell of the result holds, for each of its B' boxes, x, y, sqrt(w), sqrt(h) and confidence, then K class
    probabilities: x and y of the centre from the cell's upper left corner in sides of the cell, w and h in sides of the
    image, all straight from a linear layer. The network says the roots, as the authors' does: the paper's loss takes roots
    of w and h, which the output of a linear layer may not have.

    - ``paper``: 24 convolutions, two fully connected layers, dropout; 271,703,550 parameters as it is by default.
    - ``darknet``: what the authors published later: batch norm, a locally connected layer in place of the first fully
      connected one, 3 boxes per cell.
    - ``tiny``: their small one: 8 convolutions with batch norm and one fully connected layer. (Fast YOLO of the paper has
      9, without batch norm.)

    The convolutions make a map of 1/64 of the image, rounded up; the last layer is dense and makes any grid of it.

    Args:
        in_channels: C.
        num_classes: K, without background.
        preset: which of the three.
        grid: S.
        boxes: B'; None: the preset's, 2 or 3.
        image_size: side of the images, or height and width, in pixels.
        width: factor on the channels of every layer but the last.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 20,
        preset: Preset = "paper",
        grid: int = 7,
        boxes: int | None = None,
        image_size: int | tuple[int, int] = 448,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        plan = _PLANS[preset]
        self.size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.grid, self.boxes, self.num_classes = grid, plan.boxes if boxes is None else boxes, num_classes
        if min(*self.size, grid, self.boxes) < 1 or width <= 0:
            raise UsageError(
                f"model.image_size {image_size}, model.grid {grid}, model.boxes {boxes}, model.width {width}: image size, "
                "grid and boxes count from 1, the width is a factor above 0"
            )
        self.features = _convolutions(plan.features, in_channels, width, plan.batch_norm)
        channels = scaled(plan.features[-1][0], width)
        self.added = _convolutions(plan.added, channels, width, plan.batch_norm)
        channels = scaled(plan.added[-1][0], width)
        height, columns = (math.ceil(side / 64) for side in self.size)
        self.top = nn.Sequential()
        if plan.top == "local":
            local = LocallyConnected2d(channels, scaled(256, width), (height, columns))
            self.top.extend([local, nn.LeakyReLU(_SLOPE), nn.Dropout(0.5)])
            channels = scaled(256, width)
        inputs = channels * height * columns
        if plan.top == "connected":
            connected = _started(nn.Linear(inputs, scaled(4096, width)), inputs)
            self.top.extend([nn.Flatten(), connected, nn.LeakyReLU(_SLOPE), nn.Dropout(0.5)])
            inputs = scaled(4096, width)
        self.output = nn.Linear(inputs, grid * grid * (5 * self.boxes + num_classes))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.size:
            raise UsageError(
                f"images of {x.shape[-2]} x {x.shape[-1]} pixels for a network of {self.size[0]} x {self.size[1]}; set "
                "model.image_size, or resize them"
            )
        x = self.top(self.added(self.features(x)))
        return self.output(x.flatten(1)).view(len(x), self.grid, self.grid, -1)


# --- boxes and cells --------------------------------------------------------------------------------------------------


def _corners(says: Tensor) -> Tensor:
    """What cells say, x, y, sqrt(w), sqrt(h), (B, S, S, B', 4), as boxes xyxy in parts of the image."""
    places = torch.arange(says.shape[1], device=says.device, dtype=says.dtype)
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    centres = (says[..., :2] + torch.stack([columns, rows], -1)[:, :, None]) / len(places)
    half = says[..., 2:].square() / 2
    return torch.cat([centres - half, centres + half], -1)


def decode(output: Tensor, boxes: int) -> tuple[Tensor, Tensor]:
    """The boxes that a network sees, and how sure it is of every class.

    Args:
        output: (B, S, S, 5 B' + K), see YOLONetwork.
        boxes: B'.

    Returns:
        boxes (B, S S B', 4), xyxy in parts of the image, and scores (B, S S B', K) in [0, 1]: Pr(class | object) times the
        confidence (equation 1); a factor below 0 counts as 0.
    """
    predicted, classes = _split(output, boxes)
    scores = predicted[..., 4:].clamp(min=0) * classes[..., None, :].clamp(min=0)
    return _corners(predicted[..., :4]).flatten(1, 3), scores.clamp(max=1).flatten(1, 3)


def _split(output: Tensor, boxes: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, S, S, B', 5) and classes (B, S, S, K) of a network's output, float32."""
    predicted, classes = output.float().split([5 * boxes, output.shape[-1] - 5 * boxes], -1)
    return predicted.unflatten(-1, (boxes, 5)), classes


def encode(targets: Sequence[Mapping[str, Tensor]], sizes: Sequence[Sequence[int]], grid: int) -> tuple[Tensor, Tensor]:
    """What the cells of a batch should say: each holds the object whose centre lies in it.

    A cell knows one object (section 2.4): of several the largest, of equal ones the first. A centre on the image's right or
    lower border belongs to the last cell.

    Args:
        targets: per image ``boxes`` (N, 4) xyxy in pixels and ``labels`` (N,) from 1.
        sizes: height and width of each image in pixels.
        grid: S.

    Returns:
        x, y, sqrt(w), sqrt(h) as the network says them (B, S, S, 4), and labels (B, S, S), 0 where no object is.
    """
    counts = [len(target["labels"]) for target in targets]
    labels = torch.cat([target["labels"] for target in targets])
    boxes = torch.cat([target["boxes"].float() for target in targets])
    order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(descending=True, stable=True)
    images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(boxes.device)
    boxes = boxes / boxes.new_tensor([[width, height] * 2 for height, width in sizes])[images]

    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 * grid
    corners = centres.floor().clamp(0, grid - 1)
    columns, rows = corners.long().unbind(1)
    cells = (images * grid + rows) * grid + columns

    # The first in this order of each cell; the row after the last one stands for no object.
    first = torch.full((len(counts) * grid**2,), len(order), device=boxes.device)
    first = first.scatter_reduce(0, cells[order], torch.arange(len(order), device=boxes.device), "amin")
    says = torch.cat([centres - corners, sides.sqrt()], 1)
    says = torch.cat([says[order], says.new_zeros(1, 4)])[first]
    labels = torch.cat([labels[order], labels.new_zeros(1)])[first]
    return says.view(-1, grid, grid, 4), labels.view(-1, grid, grid)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (...) of boxes (..., 4) with as many others, one by one."""
    inner = (torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])).clamp(
        min=0
    )
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, others)]
    both = inner.prod(-1)
    return both / (areas[0] + areas[1] - both).clamp(min=1e-12)


# --- the loss ---------------------------------------------------------------------------------------------------------


def yolo_loss(
    output: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    sizes: Sequence[Sequence[int]],
    boxes: int = 2,
    lambda_coord: float = 5.0,
    lambda_noobj: float = 0.5,
) -> dict[str, Tensor]:
    """The five terms of equation 3, each a sum of squared errors over an image, and the mean of these over the batch.

    Of an object's cell one box is responsible: the one with the highest IoU, or, if none overlaps the object, with the
    least squared distance in x, y, w and h. Its confidence should be its IoU, which is a constant here: no gradient flows
    through it. All other boxes, in cells with and without objects, are no objects: their confidence should be 0.

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
    truth, here = truth[..., None, :], (labels > 0).float()  # 1_i^obj
    iou, best = _responsible(predicted[..., :4].detach(), truth)
    responsible = best * here[..., None]  # 1_ij^obj
    errors, confidence = (predicted[..., :4] - truth).square(), predicted[..., 4]
    one_hot = F.one_hot(labels, classes.shape[-1] + 1)[..., 1:]
    sums = {
        "xy": lambda_coord * (responsible * errors[..., :2].sum(-1)).sum(),
        "wh": lambda_coord * (responsible * errors[..., 2:].sum(-1)).sum(),
        "object": (responsible * (confidence - iou).square()).sum(),
        "no_object": lambda_noobj * ((1 - responsible) * confidence.square()).sum(),
        "classes": (here * (classes - one_hot).square().sum(-1)).sum(),
    }
    return {name: total / len(output) for name, total in sums.items()}


def _responsible(says: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (B, S, S, B') of what cells say (B, S, S, B', 4) and should say (B, S, S, 1, 4), and a 1 at the best box."""
    iou = _iou(_corners(says), _corners(truth))
    centres = (says[..., :2] - truth[..., :2]) / says.shape[1]
    sides = says[..., 2:].square() - truth[..., 2:].square()
    distance = centres.square().sum(-1) + sides.square().sum(-1)
    best = torch.where((iou > 0).any(-1), iou.argmax(-1), distance.argmin(-1))
    return iou, F.one_hot(best, says.shape[-2]).float()


# --- the technique ----------------------------------------------------------------------------------------------------


class YOLO(ObjectDetection):
    """You Only Look Once (Redmon et al. 2016): every cell of a grid says which object has its centre there.

    Images are warped to ``image_size``, whatever their aspect, and not normalised, as the authors do it; boxes come back at
    the images' own size. A cell finds objects of one class only, and learns one object of an image: see ``encode``.

    Args:
        in_channels: channels of the images.
        num_classes: classes of objects, without the background; the command line takes it from the data.
        preset: the paper's network, the authors' later one (darknet) or their small one (tiny), see YOLONetwork.
        grid: S, cells along each side of the image.
        boxes: boxes that each cell predicts; None: the preset's, 2 or, darknet, 3.
        image_size: side, or height and width, in pixels, to which images are warped.
        width: factor on the channels of every layer.
        lambda_coord: weight of the loss of places and sizes.
        lambda_noobj: weight of the confidence where no object is.
        score_threshold: of detections, low enough for all of the precision-recall curve; the authors' for judging. To look
            at, they take those above 0.2.
        nms_threshold: of two detections of a class with a larger IoU the worse one is dropped; the authors' for judging.
        max_detections: of an image at most.
        init_from: checkpoint of ours or state dict to start from. The first convolutions (``features``), which the authors
            pretrain as a classifier, must be in it; what follows them is taken where it is there and fits.
        **kwargs: optim, see ObjectDetection.
    """

    starts_from = ("init_from",)

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
        score_threshold: float = 0.001,
        nms_threshold: float = 0.5,
        max_detections: int = 200,
        init_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        network = YOLONetwork(in_channels, num_classes or 20, preset, grid, boxes, image_size, width)
        super().__init__(network, num_classes, **kwargs)
        self.lambda_coord, self.lambda_noobj = lambda_coord, lambda_noobj
        self.score_threshold, self.nms_threshold, self.max_detections = score_threshold, nms_threshold, max_detections
        if init_from is not None:
            load_weights(network, Path(init_from), "model.init_from", new=("added.", "top.", "output."))

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Images, each float (C, H, W) in [0, 1] -> what the cells say (B, S, S, 5 B' + K)."""
        size = self.network.size
        warped = [
            F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True) for image in images
        ]
        return self.network(torch.cat(warped).contiguous(memory_format=self.memory_format))

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self._terms_of(self(batch["image"]), batch)

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        return self._found_in(self(batch["image"]), batch)

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        output = self(batch["image"])
        return self._terms_of(output, batch), self._found_in(output, batch)

    def _terms_of(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        sizes = [image.shape[-2:] for image in batch["image"]]
        return yolo_loss(output, batch["target"], sizes, self.network.boxes, self.lambda_coord, self.lambda_noobj)

    def _found_in(self, output: Tensor, batch: Mapping[str, Any]) -> Detections:
        boxes, scores = decode(output, self.network.boxes)
        found = []
        for parts, score, image in zip(boxes, scores, batch["image"], strict=True):
            height, width = image.shape[-2:]
            pixels = parts * parts.new_tensor([width, height, width, height])
            kept = (self.score_threshold, self.nms_threshold, self.max_detections)
            found.append(detections(pixels, score, (height, width), *kept))
        return found
