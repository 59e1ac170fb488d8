"""Convolutionalized classifiers: trained on windows, tested on whole images (Long et al. 2015, section 3.1)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import Backbone, Classifier
from darkroom.lightning_modules.layers.convolutionalize import (
    convolutionalize,
    equals_crops,
    field_of_cell,
    remove_padding,
)
from darkroom.lightning_modules.layers.pretrained import (
    Weights,
    imagenet_weights,
    load_all_but_last_layer,
    normalization_of,
)
from darkroom.lightning_modules.layers.symbolic_sides import ceil_div
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.segmentation.geometry import mirror_pad
from darkroom.lightning_modules.segmentation.losses import needed_entries
from darkroom.lightning_modules.utils.precision import check_images


class SlidingClassifier(nn.Module):
    """Convolutionalized classifier over every window of an image. (B, C, H, W) of any size -> logits (B, K, H, W).

    The padding of the classifier's convolutions is set to 0, and a window is read with as many pixels around it instead:
    ``field`` pixels, 404 for VGG16 at 224. So a cell of the map equals the classifier on a crop of ``field`` pixels, and
    the shapes of its parameters stay.

    A crop around every ``stride / stitch``-th pixel is classified, with the image mirrored at its border; between these
    pixels the logits are interpolated bilinearly. Shift-and-stitch (Sermanet et al. 2013; Long et al. 2015, section 3.2):
    the network runs on ``stitch``^2 shifted images and the maps are interlaced.

    Args:
        classifier: classifies windows.
        window: side of the windows for which it was built, in pixels.
        in_channels: C.
        stitch: divisor of the map's stride; it must divide the stride of the network.

    Raises:
        UsageError: a cell of the map depends on more than its crop, or the network needs its padding.
    """

    def __init__(self, classifier: nn.Module, window: int, in_channels: int = 3, stitch: int = 1) -> None:
        super().__init__()
        self.windows = remove_padding(convolutionalize(classifier, window, in_channels))
        self.field, self.stride = field_of_cell(self.windows, window, in_channels)
        self.stitch = stitch
        # AlexNet and VGG of any width are known to fit; a pass over noise costs seconds at the paper's size.
        known = isinstance(classifier, Classifier)
        if not known and not equals_crops(self.windows, self.field, self.stride, in_channels):
            raise UsageError(
                "model.classifier must give a window the same logits alone and inside an image; remove what depends on the "
                "whole input or pads it in forward (such as GroupNorm, InstanceNorm and F.pad), or use model.backbone"
            )
        if stitch < 1 or self.stride % stitch:
            raise UsageError(f"model.stitch must divide the network's stride, {self.stride}, got {stitch}")

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        step, before = self.stride // self.stitch, self.field // 2
        # As many coarse cells as put the last one on or beyond the last pixel.
        cells = [ceil_div(side - 1, self.stride) + 1 for side in (height, width)]
        reach = [(n - 1) * self.stride + self.field + self.stride - step for n in cells]
        x = mirror_pad(x, before, reach[0] - before - height, before, reach[1] - before - width)
        maps = [
            [self.windows(x[..., dy : dy + h, dx : dx + w]) for dx in range(0, self.stride, step)]
            for h, w in [[r - self.stride + step for r in reach]]
            for dy in range(0, self.stride, step)
        ]
        fine = torch.stack([torch.stack(row, dim=-1) for row in maps], dim=-3)  # (B, K, rows, sy, columns, sx)
        fine = fine.flatten(-4, -3).flatten(-2, -1)
        rows, columns = fine.shape[-2:]
        size = ((rows - 1) * step + 1, (columns - 1) * step + 1)
        fine = F.interpolate(fine, size, mode="bilinear", align_corners=True)  # cells lie on pixels: corner to corner
        return fine[..., :height, :width]


class ConvolutionalizedClassifier(SemanticSegmentation):
    """Classifier of windows, trained on the class of their central pixel and tested as a convolution.

    The first step towards FCN (Long et al. 2015, section 3.1). Training classifies ``windows_per_image`` windows around
    random pixels of every image. It computes them in one pass over the image, which equals window by window because
    patchwise training is a sampling of the loss (section 3.4). Validation, test and prediction run the same weights over
    the whole image.

    Args:
        in_channels: channels of the images; None: from the data on the command line, 3 in Python.
        num_classes: classes, background included.
        backbone: AlexNet, CaffeNet or a VGG, built for this window.
        width: factor on the channels of every layer.
        window: side of the windows for which the classifier is built, in pixels; it reads more around them where it would
            pad (VGG16 at 224: 404 pixels).
        windows_per_image: windows of each image in a training step, at most one for every ``stride``-th pixel.
        stitch: shift-and-stitch, see SlidingClassifier; 1: a plain convolution.
        weights: start from torchvision's ImageNet weights, except the last layer (width 1, window 224).
        classifier: any other classifier of (B, C, window, window) -> (B, K) instead of the backbone, whose logits of a
            window do not depend on the rest of the image once its padding is 0.
    """

    initial_weight_arguments = ("weights",)
    network: SlidingClassifier

    def __init__(
        self,
        in_channels: int | None = None,
        num_classes: int | None = None,
        backbone: Backbone = "vgg16",
        width: float = 1.0,
        window: int = 224,
        windows_per_image: int = 16,
        stitch: int = 1,
        weights: Weights | None = None,
        classifier: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        num_classes = 2 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        if weights is not None and classifier is not None:
            raise UsageError("model.weights must be null with model.classifier: it is for model.backbone")
        classifier = classifier or Classifier(backbone, num_classes, window, in_channels, width)
        if weights == "imagenet":
            load_all_but_last_layer(classifier, imagenet_weights(backbone, width, in_channels))
        network = SlidingClassifier(classifier, window=window, in_channels=in_channels, stitch=stitch)
        super().__init__(network, num_classes=num_classes, **kwargs)
        if weights is not None:
            self.expected_normalization = normalization_of(backbone).adapt(in_channels)
        if needed_entries(self.loss):
            raise UsageError(
                f"model.loss must not need maps, as {type(self.loss).__name__} does: training uses single pixels"
            )
        self.windows_per_image = windows_per_image

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.optim.compile_in_place(self.network.windows)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        check_images(batch["image"], self.network)
        logits, labels = self.classify_windows(batch["image"], batch["mask"])
        return self.log_loss(self.loss_terms(logits, {"mask": labels}))

    def classify_windows(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Classify windows around random pixels in one pass: these are cells of a grid with a random shift.

        Returns:
            Logits (N B, K, 1, 1) and the classes of the windows' central pixels, (N B, 1, 1).
        """
        network, sides = self.network, image.shape[-2:]
        shifts = [int(torch.randint(min(side, network.stride), ())) for side in sides]
        before = [network.field // 2 - shift for shift in shifts]
        spans = [
            (side - 1 - shift) // network.stride * network.stride for side, shift in zip(sides, shifts, strict=True)
        ]
        after = [span + network.field - first - side for span, first, side in zip(spans, before, sides, strict=True)]
        image = mirror_pad(image, before[0], after[0], before[1], after[1])
        logits = network.windows(image.contiguous(memory_format=self.memory_format)).flatten(2)  # (B, K, cells)
        labels = mask[:, shifts[0] :: network.stride, shifts[1] :: network.stride].flatten(1)
        chosen = torch.rand(labels.shape, device=labels.device).argsort(1)[:, : self.windows_per_image]
        logits = logits.gather(2, chosen[:, None].expand(-1, logits.shape[1], -1))
        return logits.mT.flatten(0, 1)[..., None, None], labels.gather(1, chosen).view(-1, 1, 1)
