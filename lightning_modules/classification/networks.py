"""BackboneClassifier: the backbones of segmentation and detection as classifiers."""

from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import Backbone, Classifier, build_features
from darkroom.lightning_modules.layers.darknet import Preset, build_yolo_features
from darkroom.lightning_modules.utils.arguments import check_choice

ClassifierBackbone = Literal[Backbone, "yolo_paper", "yolo_darknet", "yolo_tiny"]
Head = Literal["pooled", "connected"]
_SMALLEST = {"alexnet": 63, "caffenet": 67, "vgg": 32, "yolo": 1}  # sides of images, in pixels


class BackboneClassifier(nn.Module):
    """Convolutions of a backbone and a head. (B, C, H, W) -> logits (B, K).

    ``features`` has the parameters of the backbone in segmentation and detection, with the same names, which are those of
    torchvision for AlexNet and VGG.

    Heads, under ``classifier``:

    - ``pooled``: global average pooling, dropout and one linear layer, for images of any size. YOLO's authors pretrain so
      (Redmon et al. 2016, section 2.2);
    - ``connected``: three linear layers with dropout (Krizhevsky et al. 2012, Simonyan & Zisserman 2015), for square images
      of one size. At 224 pixels and width 1 the parameters are those of torchvision.

    Args:
        backbone: AlexNet, CaffeNet (the AlexNet of Caffe), a VGG, or the pretrained convolutions of a preset of YOLO.
        num_classes: K; the command line takes it from the data.
        image_shape: (C, H, W); the command line takes it from the data.
        width: factor on the channels of every layer; 1 is the paper's.
        head: pooled or connected.
        dropout: probability in [0, 1); None: 0 for pooled, 0.5 for connected.

    Raises:
        UsageError: an argument is out of its range, or the images are too small for the backbone.
    """

    linked_arguments: ClassVar[tuple[str, ...]] = ("num_classes", "image_shape")

    def __init__(
        self,
        backbone: ClassifierBackbone = "vgg11_bn",
        num_classes: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        width: float = 1.0,
        head: Head = "pooled",
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        check_choice("model.network.head", head, Head)
        if num_classes is None or image_shape is None:
            raise UsageError("model.network.num_classes and model.network.image_shape must be set outside of a fit")
        _check(backbone, image_shape, width, head, dropout)
        self.pooled = head == "pooled"
        channels, side, _ = image_shape
        if backbone.startswith("yolo"):
            self.features = build_yolo_features(cast(Preset, backbone.removeprefix("yolo_")), channels, width)
        elif self.pooled:
            self.features = build_features(cast(Backbone, backbone), channels, width)
        else:
            whole = Classifier(cast(Backbone, backbone), num_classes, side, channels, width)
            self.features, self.classifier = whole.features, whole.classifier
        if self.pooled:
            outputs = [layer.out_channels for layer in self.features if isinstance(layer, nn.Conv2d)]
            self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(outputs[-1], num_classes))
        for layer in self.classifier:
            if isinstance(layer, nn.Dropout) and dropout is not None:
                layer.p = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.mean((2, 3)) if self.pooled else torch.flatten(x, 1))


def _check(
    backbone: ClassifierBackbone, image_shape: tuple[int, int, int], width: float, head: Head, dropout: float | None
) -> None:
    known = [name for choice in get_args(ClassifierBackbone) for name in (get_args(choice) or [choice])]
    if backbone not in known:
        raise UsageError(f"model.network.backbone must be one of {', '.join(known)}, got {backbone!r}")
    if width <= 0:
        raise UsageError(f"model.network.width must be a factor above 0, got {width}")
    if dropout is not None and not 0 <= dropout < 1:
        raise UsageError(f"model.network.dropout must be in [0, 1), got {dropout}")
    _, height, columns = image_shape
    least = next(side for name, side in _SMALLEST.items() if backbone.startswith(name))
    if min(height, columns) < least:
        raise UsageError(
            f"{backbone} needs images of at least {least} x {least} pixels, got {height} x {columns}; enlarge them "
            "(data.size, or data.side of Shapes), or choose another model.network.backbone"
        )
    if head == "connected" and (backbone.startswith("yolo") or height != columns):
        raise UsageError(
            "model.network.head must be pooled for YOLO's convolutions and for images that are not square, got connected "
            f"for {backbone} and {height} x {columns} pixels"
        )
