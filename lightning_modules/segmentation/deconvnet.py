"""DeconvNet (Noh, Hong, Han 2015): an encoder and its mirror image, with unpooling to the positions of the maxima."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import build_features, scale_channels, zero_bias
from darkroom.lightning_modules.layers.pretrained import Weights, imagenet_weights, normalization_of
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.segmentation.inference import Inference
from darkroom.lightning_modules.segmentation.upsampling import unpool
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols.export import ExportGraph

Unpooling = Literal["unpooling", "transposed", "bilinear", "nearest"]

# Channels of the decoder's deconvolutions after each unpooling (the paper's table of layers).
_DECODER = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64, 64))
# Windows without proposals: (divisor of the image's sides, windows along each side).
_GRID = ((1, 1), (2, 3), (4, 6))


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """Return a convolution with batch norm and ReLU; weights from N(0, 0.01), as in the paper."""
    nn.init.normal_(convolution.weight, std=0.01)
    zero_bias(convolution)
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


class _Up(nn.Module):
    """Doubling of a map: unpooling, or an alternative for comparison."""

    def __init__(self, kind: Unpooling, channels: int) -> None:
        super().__init__()
        self.kind, self.unpools = kind, kind == "unpooling"
        if kind == "transposed":
            self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor, indices: Tensor, size: torch.Size) -> Tensor:
        if self.kind == "unpooling":
            return unpool(x, indices, size)
        if self.kind == "transposed":
            return self.up(x, output_size=size)
        return F.interpolate(x, size, mode=self.kind, **({"align_corners": False} if self.kind == "bilinear" else {}))


class DeconvNetwork(nn.Module):
    """VGG16 with batch norm, two fully connected layers as convolutions, and its mirror image with argmax unpooling.

    (B, C, H, W), both sides at least ``window`` -> logits (B, K, H, W). 251,772,245 parameters in convolutions at width 1,
    window 224 and 21 classes.

    Args:
        in_channels: C.
        num_classes: K.
        backbone: a VGG with batch norm; the paper's is vgg16_bn.
        width: factor on the channels of every layer.
        window: side of the training windows in pixels, the kernel of the fully connected layer; 224 is the paper's.
        upsampling: the paper's unpooling, or an alternative for comparison.

    Raises:
        UsageError: an image is smaller than the window.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        backbone: Literal["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"] = "vgg16_bn",
        width: float = 1.0,
        window: int = 224,
        upsampling: Unpooling = "unpooling",
    ) -> None:
        super().__init__()
        if window < 32 or window % 32:
            raise UsageError(f"model.window must be a multiple of 32 (five poolings halve it), got {window}")
        self.window = window
        self.features = build_features(backbone, in_channels, width)
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.return_indices = True
        top, hidden, kernel = scale_channels(512, width), scale_channels(4096, width), window // 32
        self.fc6 = nn.Sequential(*_layer(nn.Conv2d(top, hidden, kernel)))
        self.fc7 = nn.Sequential(*_layer(nn.Conv2d(hidden, hidden, 1)))
        self.unfc6 = nn.Sequential(*_layer(nn.ConvTranspose2d(hidden, top, kernel)))
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = top
        for stage in _DECODER:
            self.ups.append(_Up(upsampling, channels))
            layers: list[nn.Module] = []
            for out in (scale_channels(out, width) for out in stage):
                layers += _layer(nn.ConvTranspose2d(channels, out, 3, padding=1))
                channels = out
            self.decoder.append(nn.Sequential(*layers))
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.window:
            raise UsageError(
                f"an image of {x.shape[-2]} x {x.shape[-1]} pixels is smaller than DeconvNet's window: both sides must be "
                f"at least {self.window}; set model.window lower, or model.proposals to warp windows for test and predict"
            )
        pooled: list[tuple[Tensor, torch.Size]] = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                before = x.shape[-2:]
                x, indices = layer(x)
                pooled.append((indices, before))
            else:
                x = layer(x)
        x = self.unfc6(self.fc7(self.fc6(x)))
        for up, stage, (indices, size) in zip(self.ups, self.decoder, reversed(pooled), strict=True):
            x = stage(up(x, indices, size))
        return self.score(x)

    def load_classifier(self, state: dict[str, Tensor]) -> None:
        """Load the weights of torchvision's classifier, except its last layer."""
        ours = {name: value for name, value in state.items() if name.startswith("features")}
        for layer, linear in (("fc6", "classifier.0"), ("fc7", "classifier.3")):
            ours[f"{layer}.0.weight"] = state[f"{linear}.weight"].view_as(self.get_parameter(f"{layer}.0.weight"))
            ours[f"{layer}.0.bias"] = state[f"{linear}.bias"]
        self.load_state_dict(ours, strict=False)


def grid_windows(height: int, width: int, count: int) -> Tensor:
    """Return windows of an image without proposals: the whole, halves, quarters; float32 (P <= count, 4) xyxy, pixels."""
    boxes: list[tuple[float, float, float, float]] = []
    for divisor, along in _GRID:
        h, w = height / divisor, width / divisor
        places = [i / max(1, along - 1) for i in range(along)]
        level = [(x * (width - w), y * (height - h)) for y in places for x in places]
        if boxes and len(boxes) + len(level) > count:
            break
        boxes += [(x, y, x + w, y + h) for x, y in level]
    return torch.tensor(boxes[: max(1, count)])


class DeconvNet(SemanticSegmentation):
    """DeconvNet: a deep decoder with argmax unpooling, trained on windows, tested on proposals (Noh et al. 2015).

    The paper trains twice: on windows around one object (``data.crops: objects``), then, from these weights, on windows as
    proposals would crop them (``data.crops: windows``). In test it warps each proposal to the window; every pixel takes the
    maximum of its scores (equation 1).

    Args:
        in_channels: channels of the images; None: from the data on the command line, 3 in Python.
        num_classes: classes, background included.
        backbone: a VGG with batch norm; the paper's is vgg16_bn.
        width: factor on the channels of every layer.
        window: side of the training windows in pixels.
        upsampling: unpooling (the paper's), transposed, bilinear or nearest.
        proposals: in evaluation, most windows of each image: the first of ``batch["proposals"]``, or a grid of the whole,
            halves and quarters without proposals; the paper takes 50. 0: the whole image at once, at its own size.
        aggregate: over the windows that cover a pixel: the maximum (equation 1) or the sum (equation 2) of their scores.
        weights: start the encoder from torchvision's ImageNet weights; they are downloaded only if this is set.
        others: see SemanticSegmentation; ``init_from`` takes the first stage.
    """

    initial_weight_arguments = ("weights",)
    network: DeconvNetwork
    free_arguments: ClassVar[tuple[str, ...]] = ("proposals", "aggregate")

    def __init__(
        self,
        in_channels: int | None = None,
        num_classes: int | None = None,
        backbone: Literal["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"] = "vgg16_bn",
        width: float = 1.0,
        window: int = 224,
        upsampling: Unpooling = "unpooling",
        proposals: int = 0,
        aggregate: Literal["max", "sum"] = "max",
        weights: Weights | None = None,
        **kwargs: Any,
    ) -> None:
        num_classes = 2 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        network = DeconvNetwork(
            in_channels=in_channels,
            num_classes=num_classes,
            backbone=backbone,
            width=width,
            window=window,
            upsampling=upsampling,
        )
        super().__init__(network, num_classes=num_classes, **kwargs)
        if proposals < 0:
            raise UsageError(f"model.proposals must be a number of windows, or 0 for the whole image, got {proposals}")
        if proposals and self.inference != Inference():
            raise UsageError("model.proposals must be 0 with model.inference: use windows, or tiles, flips and scales")
        self.proposals, self.aggregate = proposals, aggregate
        if weights == "imagenet":
            network.load_classifier(imagenet_weights(backbone, width, in_channels, window))
            self.expected_normalization = normalization_of(backbone).adapt(in_channels)

    def export_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph of whole images, see ``ExportableModel``.

        Raises:
            UsageError: there are proposals, whose windows a graph cannot warp.
        """
        if self.proposals:
            raise UsageError(
                f"model.proposals must be 0 for export, whose graph takes whole images, got {self.proposals}; add "
                "--model.proposals 0"
            )
        return super().export_graph(normalization)

    def infer(self, batch: dict[str, Any]) -> Tensor:
        """Compute logits (B, K, H, W) of proposals, aggregated, or of the whole image."""
        if not self.proposals:
            return super().infer(batch)
        images, proposals = batch["image"], batch.get("proposals")
        if proposals is None:
            height, width = images.shape[-2:]
            proposals = [grid_windows(height, width, count=self.proposals)] * len(images)
        pairs = zip(images, proposals, strict=True)
        return torch.stack([self._aggregate(image, boxes[: self.proposals].tolist()) for image, boxes in pairs])

    def _aggregate(self, image: Tensor, boxes: list[list[float]]) -> Tensor:
        """Aggregate the scores (K, H, W) of windows (x0, y0, x1, y1), each zero outside its window."""
        height, width = image.shape[-2:]
        side = (self.network.window, self.network.window)
        empty = float("-inf") if self.aggregate == "max" else 0.0
        scores = image.new_full((self.num_classes, height, width), empty, dtype=torch.float32)
        covered = image.new_zeros(height, width)
        for start in range(0, len(boxes), 8):
            places = [_clip_box(box, height, width) for box in boxes[start : start + 8]]
            warped = [
                F.interpolate(image[None, :, rows, columns], side, mode="bilinear", align_corners=False, antialias=True)
                for rows, columns in places
            ]
            for (rows, columns), one in zip(places, self(torch.cat(warped)).float(), strict=True):
                size = (rows.stop - rows.start, columns.stop - columns.start)
                one = F.interpolate(one[None], size, mode="bilinear", align_corners=False)[0]
                region = scores[:, rows, columns]
                region.copy_(torch.maximum(region, one) if self.aggregate == "max" else region + one)
                covered[rows, columns] += 1
        # The score of a window is zero at pixels outside of it.
        return torch.where(covered == len(boxes), scores, scores.clamp(min=0)) if self.aggregate == "max" else scores


def _clip_box(box: list[float], height: int, width: int) -> tuple[slice, slice]:
    """Return rows and columns of a box (x0, y0, x1, y1), at least one pixel of the image."""
    x0, y0 = (min(max(0, int(low)), side - 1) for low, side in zip(box[:2], (width, height), strict=True))
    x1, y1 = (
        min(max(low + 1, round(high)), side) for low, high, side in zip((x0, y0), box[2:], (width, height), strict=True)
    )
    return slice(y0, y1), slice(x0, x1)
