"""Sliding window: a classifier of crops, asked everywhere, at every size and aspect ratio."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import Detections, ObjectDetection
from darkroom.lightning_modules.detection.boxes import detections, repeatable, sample_rois, warp
from darkroom.lightning_modules.layers.backbones import IMAGENET_MEAN, IMAGENET_STD
from darkroom.lightning_modules.layers.convolutionalize import convolutionalize


class WindowClassifier(nn.Sequential):
    """A small classifier that pads nothing, so that it is the same whether it sees a crop or slides over a picture.

    (B, C, window, window) -> logits (B, K + 1), background first. Two stages of two 3 x 3 convolutions and a pooling, then
    two linear layers; it slides by 4 pixels.

    Args:
        num_classes: K, without the background.
        window: side of its input in pixels, at least 16.
        channels: of the first stage, twice as many in the second, four times in the hidden linear layer.
        in_channels: C.
    """

    def __init__(self, num_classes: int = 1, window: int = 32, channels: int = 32, in_channels: int = 3) -> None:
        if window < 16 or window % 4:
            raise UsageError(f"model.window is {window}; two poolings halve it: a multiple of 4, at least 16")
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
    """A crop classifier with a background class, slid over a pyramid of the picture in several aspect ratios.

    Training takes windows of the grid that testing will ask, and the true boxes, warped to the classifier's input. For each
    side and aspect ratio, testing resizes the picture so that such windows become the classifier's, and asks the classifier
    every ``stride`` pixels: ``dense``, as a convolution over the whole picture, which is the same as crop by crop where the
    classifier pads nothing (Sermanet et al. 2014, section 3.5), or by ``crops``. Then non-maximum suppression within each
    class.

    Args:
        num_classes: classes of objects, without the background.
        classifier: (B, 3, window, window) -> logits (B, K + 1), background first; default: ``WindowClassifier``.
        window: side of its input in pixels.
        channels: of the default classifier.
        sides: of the windows, in pixels of the picture: the square roots of their areas.
        aspect_ratios: of the windows, height over width.
        stride: pixels between two windows, of the picture as it is resized for a side; dense: a multiple of the
            classifier's own stride.
        mode: how to ask in validation, test and prediction.
        windows_per_image: windows of an image in a training step.
        foreground: part of them that are objects, at most.
        foreground_iou: IoU with a true box from which on a window is an object.
        background_iou: IoU below which it is background; what is between teaches nothing.
        score_threshold, nms_threshold, max_detections: see ``detections``.
        optim: see Technique.
    """

    mean: Tensor
    std: Tensor

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
        score_threshold: float = 0.05,
        nms_threshold: float = 0.3,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        classifier = classifier or WindowClassifier(num_classes or 1, window, channels)
        network = convolutionalize(classifier, window)
        super().__init__(network, num_classes, **kwargs)
        if not sides or not aspect_ratios or min(*sides, *aspect_ratios, stride) <= 0:
            raise UsageError("model.sides, model.aspect_ratios and model.stride need values above 0")
        own = _stride(network, window, self.num_classes + 1)
        if mode == "dense" and not _slides(network, window, own):
            raise UsageError(
                "model.mode dense is exact only where nothing is padded, but this classifier answers otherwise crop by "
                "crop; set it to crops"
            )
        if mode == "dense" and stride % own:
            raise UsageError(
                f"model.stride is {stride}; a dense pass gives answers every {own} pixels: a multiple of it"
            )
        self.window, self.stride, self.every, self.mode = window, stride, max(1, stride // own), mode
        self.sides, self.aspect_ratios = tuple(sides), tuple(aspect_ratios)
        self.windows_per_image, self.foreground = windows_per_image, foreground
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    # --- the grid -----------------------------------------------------------------------------------------------------

    def levels(self, height: int, width: int) -> Iterator[tuple[tuple[int, int], tuple[int, int], Tensor]]:
        """For each side and aspect ratio: the size of the resized picture, rows and columns of windows on it, and these
        windows as boxes (rows columns, 4) in pixels of the picture."""
        for side in self.sides:
            for ratio in self.aspect_ratios:
                scale = (self.window / (side * ratio**0.5), self.window / (side / ratio**0.5))
                size = tuple(max(1, round(extent * s)) for extent, s in zip((height, width), scale, strict=True))
                count = tuple(-(-max(0, extent - self.window) // self.stride) + 1 for extent in size)
                y, x = (torch.arange(n, dtype=torch.float32) * self.stride for n in count)
                corners = torch.stack([x.repeat(count[0]), y.repeat_interleave(count[1])], 1)
                back = torch.tensor([width / size[1], height / size[0]])
                yield size, count, torch.cat([corners * back, (corners + self.window) * back], 1)

    def _normalized(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def _logits(self, image: Tensor, size: tuple[int, int], count: tuple[int, int]) -> Tensor:
        """Logits (rows columns, K + 1) of all windows of one level of an image (3, H, W), normalised."""
        resized = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)
        reach = [(n - 1) * self.stride + self.window for n in count]
        resized = F.pad(resized, (0, max(0, reach[1] - size[1]), 0, max(0, reach[0] - size[0])))
        resized = resized[..., : reach[0], : reach[1]]
        if self.mode == "dense":
            dense = self.network(resized.contiguous(memory_format=self.memory_format))
            return dense[0, :, :: self.every, :: self.every].flatten(1).T
        crops = resized.unfold(2, self.window, self.stride).unfold(3, self.window, self.stride)
        crops = crops[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
        return torch.cat([self.network(some).flatten(1) for some in crops.split(256)])

    # --- training and detection ---------------------------------------------------------------------------------------

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        windows, labels = [], []
        for image, target in zip(batch["image"], batch["target"], strict=True):
            grid = torch.cat([boxes for *_, boxes in self.levels(*image.shape[-2:])]).to(image.device)
            limits = (self.foreground, self.foreground_iou, (0.0, self.background_iou))
            rois, classes, _ = sample_rois(grid, target, self.windows_per_image, *limits)
            windows.append(warp(self._normalized(image), rois, self.window))
            labels.append(classes)
        crops = torch.cat(windows).contiguous(memory_format=self.memory_format)
        logits = self.network(crops).flatten(1)
        return {"class": F.cross_entropy(logits.float(), torch.cat(labels))}

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        found = []
        for image in batch["image"]:
            size = image.shape[-2:]
            normalized, boxes, scores = self._normalized(image), [], []
            for resized, count, windows in self.levels(*size):
                scores.append(self._logits(normalized, resized, count).float().softmax(1)[:, 1:])
                boxes.append(windows)
            limits = (self.score_threshold, self.nms_threshold, self.max_detections)
            found.append(detections(torch.cat(boxes).to(image.device), torch.cat(scores), size, *limits))
        return found

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        with repeatable(batch["image"][0].device):
            losses = self.loss_terms(batch)
        return losses, self.detect(batch)


def _stride(network: nn.Module, window: int, outputs: int) -> int:
    """Pixels between two answers of a convolutionalized classifier, which has so many outputs."""
    answers = _asked(network, torch.zeros(1, 3, window + 256, window))
    if answers.shape[1] != outputs:
        raise UsageError(
            f"model.classifier has {answers.shape[1]} outputs; it needs {outputs}, one for each class and the background"
        )
    return 256 // (answers.shape[-2] - 1)


def _slides(network: nn.Module, window: int, stride: int) -> bool:
    """Whether a dense pass gives what the crops give, on noise."""
    image = torch.randn(1, 3, window + 2 * stride, window + stride, generator=torch.Generator().manual_seed(0))
    crops = image.unfold(2, window, stride).unfold(3, window, stride)[0].permute(1, 2, 0, 3, 4)
    one_by_one = _asked(network, crops.flatten(0, 1))[..., 0, 0]
    dense = _asked(network, image)[0].flatten(1).T
    return dense.shape == one_by_one.shape and torch.allclose(dense, one_by_one, atol=1e-3 * dense.abs().max().item())


def _asked(network: nn.Module, image: Tensor) -> Tensor:
    training = network.training
    with torch.no_grad():
        answers = network.eval()(image)
    network.train(training)
    return answers
