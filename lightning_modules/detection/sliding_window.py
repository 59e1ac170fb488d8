"""Sliding window: a classifier of crops, run at every position, size and aspect ratio."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn, sym_max
from torch.compiler import is_exporting
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.boxes import fixed_seed, sample_rois, select_detections, warp
from darkroom.lightning_modules.detection.export.graph import CandidateGraph, detection_graph
from darkroom.lightning_modules.detection.export.select import extents
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.types import Detections
from darkroom.lightning_modules.layers.convolutionalize import convolutionalize, equals_crops
from darkroom.lightning_modules.layers.pretrained import IMAGENET, Normalization
from darkroom.lightning_modules.layers.symbolic_sides import as_one_symbol, ceil_div
from darkroom.lightning_modules.utils.eval_mode import eval_mode
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols import PretrainedNetwork
from darkroom.protocols.export import ExportGraph


class WindowClassifier(nn.Sequential):
    """Small classifier without padding, so that crops and a dense pass over an image give the same logits.

    (B, C, window, window) -> logits (B, K + 1), background first. Two blocks of two 3 x 3 convolutions and a pooling, then
    two linear layers; its stride is 4 pixels.

    Args:
        num_classes: K, without the background.
        window: side of its input in pixels, at least 16.
        channels: of the first block; twice as many in the second, four times as many in the hidden linear layer.
        in_channels: C.
    """

    def __init__(self, num_classes: int = 1, window: int = 32, channels: int = 32, in_channels: int = 3) -> None:
        if window < 16 or window % 4:
            raise UsageError(f"model.window must be a multiple of 4 (two poolings halve it), at least 16, got {window}")
        layers: list[nn.Module] = []
        for inputs, outputs in ((in_channels, channels), (channels, 2 * channels)):
            for first in (inputs, outputs):
                layers += [nn.Conv2d(first, outputs, 3, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
        side = ((window - 4) // 2 - 4) // 2
        hidden = 4 * channels
        layers += [nn.Flatten(), nn.Linear(2 * channels * side**2, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        super().__init__(*layers, nn.Linear(hidden, num_classes + 1))


class SlidingWindow(ObjectDetection):
    """Classifier of crops with a background class, slid over a pyramid of the image in several aspect ratios.

    Training samples windows of the grid of testing, and the true boxes, and warps them to the classifier's input. For each
    side and aspect ratio, testing resizes the image so that such windows have the size of the classifier's input, and runs
    the classifier every ``stride`` pixels. Mode ``dense`` runs it as a convolution over the whole image. For a
    classifier without padding that equals mode ``crops``, which runs it on each crop (Sermanet et al. 2014, section 3.5).
    Non-maximum suppression within each class follows.

    Args:
        num_classes: classes of objects, without the background.
        classifier: (B, 3, window, window) -> logits (B, K + 1), background first; default: ``WindowClassifier``. Of a
            ``BackboneClassifier`` the command line sets the number of classes and the image size, and images are normalized
            as its ImageNet weights expect, whether it starts from them or not.
        window: side of its input in pixels.
        channels: of the default classifier.
        sides: of the windows, in pixels of the image: the square roots of their areas.
        aspect_ratios: of the windows, height over width.
        stride: pixels between two windows, in the image resized for a side; dense: a multiple of the
            classifier's own stride.
        mode: dense or crops, in validation, test and prediction.
        windows_per_image: windows of an image in a training step.
        foreground: largest fraction of objects among them.
        foreground_iou: smallest IoU of an object with a true box.
        background_iou: IoU below which a window is background; windows between the two are not trained on.
        inference: which candidates become detections; by default score_threshold 0.05, nms_threshold 0.3, max_detections
            100.
        optim, init_from: see Technique.
    """

    mean: Tensor
    std: Tensor
    default_limits: ClassVar[Limits] = Limits(score_threshold=0.05, nms_threshold=0.3, max_detections=100)
    free_arguments: ClassVar[tuple[str, ...]] = ("sides", "aspect_ratios", "stride", "mode")

    def __init__(
        self,
        num_classes: int | None = None,
        classifier: nn.Module | None = None,
        window: int = 32,
        channels: int = 32,
        sides: Sequence[float] = (24.0, 32.0, 45.0, 64.0),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        stride: int = 4,
        mode: Literal["dense", "crops"] = "dense",
        windows_per_image: int = 32,
        foreground: float = 0.25,
        foreground_iou: float = 0.6,
        background_iou: float = 0.4,
        inference: DetectionInference | None = None,
        **kwargs: Any,
    ) -> None:
        classifier = classifier or WindowClassifier(num_classes or 1, window, channels)
        network = convolutionalize(classifier, window)
        super().__init__(network, num_classes=num_classes, masks=False, inference=inference, **kwargs)
        if not sides or not aspect_ratios or min(*sides, *aspect_ratios, stride) <= 0:
            raise UsageError("model.sides, model.aspect_ratios and model.stride must be above 0")
        own = _stride(network, window, self.num_classes + 1)
        if mode == "dense" and not equals_crops(network, window, own):
            raise UsageError(
                "model.mode must be crops for this classifier, whose padding makes dense logits differ from those of crops"
            )
        if mode == "dense" and stride % own:
            raise UsageError(f"model.stride must be a multiple of the classifier's stride, {own}, got {stride}")
        self.window, self.stride, self.every, self.mode = window, stride, max(1, stride // own), mode
        self.sides, self.aspect_ratios = tuple(sides), tuple(aspect_ratios)
        self.windows_per_image, self.foreground = windows_per_image, foreground
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        expected = classifier.expected_normalization if isinstance(classifier, PretrainedNetwork) else None
        mean, std = expected or IMAGENET
        self.own_normalization = Normalization(tuple(mean), tuple(std))
        for name, values in zip(("mean", "std"), self.own_normalization.tensors(), strict=True):
            self.register_buffer(name, values, persistent=False)

    @staticmethod
    def shared_arguments(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the arguments of ``classifier`` that follow from the others, see ``ConfigTraits``."""
        classes, window = arguments.get("num_classes"), arguments.get("window")
        return {
            "classifier": {
                "num_classes": classes and classes + 1,  # the background too
                "image_shape": window and (3, window, window),
            }
        }

    # --- the grid -----------------------------------------------------------------------------------------------------

    def levels(self, height: int, width: int) -> Iterator[tuple[tuple[int, int], tuple[int, int], Tensor]]:
        """Yield a level for each side and aspect ratio.

        A level is the size of the resized image, the rows and columns of windows on it, and these windows as boxes
        (rows columns, 4) in pixels of the image.
        """
        for side in self.sides:
            for ratio in self.aspect_ratios:
                scale = (self.window / (side * ratio**0.5), self.window / (side / ratio**0.5))
                size = (_scaled(height, scale[0]), _scaled(width, scale[1]))
                count = (self._count(size[0]), self._count(size[1]))
                y, x = (torch.arange(n, dtype=torch.float32) * self.stride for n in count)
                corners = torch.stack([x.expand(count), y[:, None].expand(count)], -1).flatten(0, 1)
                back = (extents(height, width) / extents(*size))[:2]
                yield size, count, torch.cat([corners * back, (corners + self.window) * back], 1)

    def _count(self, extent: int) -> int:
        """Return the number of windows that cover a side."""
        return as_one_symbol(ceil_div(sym_max(0, extent - self.window), self.stride) + 1, least=1)

    def _normalize(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def _logits(self, image: Tensor, size: tuple[int, int], count: tuple[int, int]) -> Tensor:
        """Compute logits (B, rows columns, K + 1) of all windows of one level of normalized images (B, 3, H, W)."""
        resized = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        reach = [(n - 1) * self.stride + self.window for n in count]
        resized = F.pad(resized, (0, reach[1] - size[1], 0, reach[0] - size[0]))  # a negative amount crops
        if self.mode == "dense":
            dense = self.network(resized.contiguous(memory_format=self.memory_format))
            return dense[..., :: self.every, :: self.every].flatten(2).mT
        crops = resized.unfold(2, self.window, self.stride).unfold(3, self.window, self.stride)
        crops = crops.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        parts = [crops] if is_exporting() else crops.split(256)  # a graph has no loop whose length depends on the image
        return torch.cat([self.network(some).flatten(1) for some in parts]).unflatten(0, (image.shape[0], -1))

    # --- training and detection ---------------------------------------------------------------------------------------

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the cross-entropy of windows sampled from the grid of all levels."""
        windows, labels = [], []
        for image, target in zip(batch["image"], batch["target"], strict=True):
            grid = torch.cat([boxes for *_, boxes in self.levels(*image.shape[-2:])]).to(image.device)
            rois, classes, _ = sample_rois(
                grid,
                target,
                self.windows_per_image,
                foreground=self.foreground,
                foreground_iou=self.foreground_iou,
                background_iou=(0.0, self.background_iou),
            )
            windows.append(warp(self._normalize(image), rois, self.window))
            labels.append(classes)
        crops = torch.cat(windows).contiguous(memory_format=self.memory_format)
        logits = self.network(crops).flatten(1)
        return {"class": F.cross_entropy(logits.float(), torch.cat(labels))}

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """Detect objects by classifying every window of every level; a detection's box is its window."""
        found = []
        for image in batch["image"]:
            boxes, scores = self.candidates(image[None])
            found.append(select_detections(boxes[0], scores[0], image.shape[-2:], self.limits))
        return found

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the windows of all levels (B, P, 4) and their scores (B, P, K), of images (B, 3, H, W) in [0, 1]."""
        normalized, boxes, scores = self._normalize(image), [], []
        for resized, count, windows in self.levels(*image.shape[-2:]):
            scores.append(self._logits(normalized, resized, count).float().softmax(-1)[..., 1:])
            boxes.append(windows)
        return torch.cat(boxes).to(image.device).expand(image.shape[0], -1, -1), torch.cat(scores, 1)

    def whole_image_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images to detections."""
        resizing = (
            "the graph resizes images for each side and aspect ratio of the windows; boxes are in pixels of the image"
        )
        return detection_graph(CandidateGraph(self, normalization), self.limits, 3, resizing)

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Compute loss terms, with a fixed sample of windows, and detections."""
        with fixed_seed(batch["image"][0].device):
            losses = self.loss_terms(batch)
        return losses, self.detect(batch)


def _scaled(side: int, scale: float) -> int:
    """Return a side times a factor, rounded, at least 1; the side may be symbolic, as in a traced graph."""
    return as_one_symbol(sym_max(1, (side * round(scale * 2**20) + 2**19) // 2**20), least=1)


def _stride(network: nn.Module, window: int, outputs: int) -> int:
    """Measure the stride of a convolutionalized classifier, which must have this number of outputs."""
    with torch.no_grad(), eval_mode(network):
        logits = network(torch.zeros(1, 3, window + 256, window))
    if logits.shape[1] != outputs:
        raise UsageError(
            f"model.classifier must have {outputs} outputs, one for each class and the background, got {logits.shape[1]}"
        )
    return 256 // (logits.shape[-2] - 1)
