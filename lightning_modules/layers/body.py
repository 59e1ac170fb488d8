"""Bodies: the feature maps of a classifier, by stride, for every method that builds on one."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

import torch
import torchvision
from torch import Tensor, nn
from typing_extensions import TypeIs

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import Backbone, copy_conv
from darkroom.lightning_modules.layers.efficientnet_lite import EfficientNetLite0
from darkroom.lightning_modules.layers.narrow import freeze_norms, narrow
from darkroom.lightning_modules.layers.pretrained import Weights, fetch_imagenet_weights, fit_channels

Norm = Literal["batch", "frozen"]
FeatureBackbone = Literal["resnet18", "resnet34", "resnet50", "mobilenet_v2", "efficientnet_lite0"]
AnyBackbone = Literal[Backbone, FeatureBackbone]

# A side that every stride up to 32 divides, too large for a classifier's final pooling to be taken for a stride.
_SIDE = 256
_LEVELS = {_SIDE >> level: level for level in range(6)}
_EXAMPLES = "resnet18, resnet50, mobilenet_v2, efficientnet_lite0, regnet_y_400mf, densenet121 or vgg16_bn"


class Body(nn.Module):
    """Feature maps of a classifier: images (B, C, H, W) -> maps of ascending levels, named "0", "1", ...

    A map of level l has stride 2^l. The parameters keep the classifier's names.

    Args:
        classifier: its children are moved to the body.
        blocks: names of its blocks that run in sequence: of children, or of the elements of Sequential children.
        ends: level of the map for each block that returns one, ascending.
        in_channels: C.

    Attributes:
        levels: of the maps.
        channels: of the maps.
    """

    def __init__(self, classifier: nn.Module, blocks: Sequence[str], ends: dict[str, int], in_channels: int) -> None:
        super().__init__()
        self._sequence, self.levels = list(blocks), list(ends.values())
        self._ends = {block: str(index) for index, block in enumerate(ends)}
        for name, child in classifier.named_children():
            inner = sum(block.startswith(f"{name}.") for block in blocks)
            if inner:
                child = nn.Sequential(OrderedDict(list(child.named_children())[:inner]))
            if inner or name in blocks:
                self.add_module(name, child)
        self.channels = _measure_channels(self, in_channels)

    def forward(self, x: Tensor, until: int | None = None) -> dict[str, Tensor]:
        """Compute the maps of images up to the level ``until``; None: all maps."""
        maps = {}
        for block in self._sequence[: self._length(until)]:
            x = self.get_submodule(block)(x)
            if block in self._ends:
                maps[self._ends[block]] = x
        return maps

    def last_map(self, x: Tensor, until: int | None = None) -> Tensor:
        """Compute the map of the last level, or of the level ``until``, alone."""
        return list(self(x, until).values())[-1]

    def last_map_from(self, level: int, x: Tensor) -> Tensor:
        """Compute the map of the last level from that of an earlier level, or from regions of it."""
        for block in self._sequence[self._length(level) :]:
            x = self.get_submodule(block)(x)
        return x

    def _length(self, level: int | None) -> int:
        """Return the number of blocks that compute the map of a level."""
        end = list(self._ends)[-1 if level is None else self.levels.index(level)]
        return self._sequence.index(end) + 1

    def load_classifier(self, state: dict[str, Tensor]) -> None:
        """Load the body's layers from the weights of a whole classifier of the same sizes."""
        self.load_state_dict({name: state[name] for name in self.state_dict()})


def is_body(backbone: str) -> TypeIs[FeatureBackbone]:
    """Return whether a backbone is a ``FeatureBackbone``, of which ``build_backbone`` builds a body."""
    return backbone in get_args(FeatureBackbone)


def refuse_window(backbone: FeatureBackbone, window: int) -> None:
    """Raise a UsageError if a window is set: a body has no fully connected layers, whose size depends on it."""
    if window != 224:
        raise UsageError(
            f"model.window must be 224, its default, with model.backbone {backbone}, which takes images of any size, "
            f"got {window}"
        )


def build_backbone(
    name: str,
    levels: Sequence[int] = (2, 3, 4, 5),
    width: float = 1.0,
    weights: Weights | None = None,
    norm: Norm = "batch",
    frozen_stages: int = 0,
    in_channels: int = 3,
    option: str = "model",
) -> Body:
    """Build the body of a classifier, which returns its last map of each level.

    For a ResNet, levels 2 to 5 are the papers' C2 to C5. All five classifiers of ``FeatureBackbone`` have levels 1 to 5.

    Args:
        name: efficientnet_lite0, or a classifier of torchvision whose maps halve: ResNet, MobileNet, EfficientNet, RegNet,
            DenseNet, VGG ...
        levels: ascending, of 1 to 5.
        width: factor on the channels of every layer.
        weights: imagenet: start from the weights of ``fetch_imagenet_weights``.
        norm: frozen: batch norms have constant statistics and factors; for pretrained weights and small batches.
        frozen_stages: layers up to this level are frozen; 0 to 5. torchvision's detectors freeze 2 of a ResNet.
        in_channels: of the images; ImageNet weights are adapted to them, see ``adapt_channels``.
        option: key of the options of the backbone, for messages.

    Raises:
        UsageError: an argument is out of its range, the classifier has no map of a level, or weights are missing.
    """
    if width != 1 and weights is not None:
        raise UsageError(f"{option}.width must be 1 with {option}.weights {weights}, got {width}")
    if not 0 <= frozen_stages <= 5:
        raise UsageError(f"model.frozen_stages must be a level from 0 (none) to 5 (all layers), got {frozen_stages}")
    template, blocks = _traced(_known(name, option))
    names, ends = list(blocks), {level: block for block, level in blocks.items()}  # the last one of each level
    for level in (*levels, *[frozen_stages] * bool(frozen_stages)):
        if level not in ends:
            raise UsageError(f"{option}.backbone {name} has no map of stride {2**level}; use for example {_EXAMPLES}")
    if width == 1:
        model = _build_classifier(name)
    else:
        model = copy.deepcopy(template)
        narrow(model, width)
    _set_channels(model, in_channels)
    if weights == "imagenet":
        model.load_state_dict(fit_channels(fetch_imagenet_weights(name, f"{option}.weights"), in_channels))
    for block in names[: names.index(ends[frozen_stages]) + 1] if frozen_stages else []:
        model.set_submodule(block, freeze_norms(model.get_submodule(block).requires_grad_(False)))
    if norm == "frozen":
        freeze_norms(model)
    last = names.index(ends[levels[-1]]) + 1
    try:
        return Body(model, names[:last], {ends[level]: level for level in levels}, in_channels)
    except RuntimeError as error:
        raise UsageError(f"{option}.backbone {name} cannot be built at {option}.width {width} ({error})") from None


def _build_classifier(name: str) -> nn.Module:
    return EfficientNetLite0() if name == "efficientnet_lite0" else torchvision.models.get_model(name, weights=None)


def _set_channels(classifier: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one for images of other channels, with He's initialization."""
    name, first = next((name, layer) for name, layer in classifier.named_modules() if isinstance(layer, nn.Conv2d))
    if first.in_channels != in_channels:
        replaced = copy_conv(first, in_channels, first.out_channels)
        nn.init.kaiming_normal_(replaced.weight, mode="fan_out", nonlinearity="relu")
        if replaced.bias is not None:
            nn.init.zeros_(replaced.bias)
        classifier.set_submodule(name, replaced)


def _known(name: str, option: str) -> str:
    """Return the name of a classifier, or raise a UsageError if there is none of this name."""
    if name not in ("efficientnet_lite0", *torchvision.models.list_models(module=torchvision.models)):
        raise UsageError(
            f"{option}.backbone must be efficientnet_lite0 or a classifier of torchvision, such as {_EXAMPLES}, got {name}"
        )
    return name


@cache  # tracing takes most of the time of building a body
def _traced(name: str) -> tuple[nn.Module, dict[str, int | None]]:
    """Return a classifier on the meta device, which callers must not change, and the levels of its blocks' maps."""
    try:
        with torch.device("meta"):
            classifier = _build_classifier(name)
    except NotImplementedError:  # its constructor computes
        with torch.random.fork_rng(devices=[]):  # the seed gives the same weights to the first body and the next
            classifier = _build_classifier(name).to("meta")
    return classifier, _blocks(classifier)


def _blocks(classifier: nn.Module) -> dict[str, int | None]:
    """Trace the blocks that a classifier runs in sequence, from the image on; return their maps' levels.

    A block is a child, or an element of a Sequential child, never a part of a residual block.
    """
    classifier = copy.deepcopy(classifier).eval()
    image = torch.empty(1, 3, _SIDE, _SIDE, device="meta")
    chain: list[Tensor] = [image]
    blocks: dict[str, int | None] = {}

    def record(name: str, inputs: Tensor, outputs: Tensor) -> None:
        if inputs is chain[-1] and isinstance(outputs, Tensor) and outputs.dim() == 4:
            chain.append(outputs)
            height, width = outputs.shape[-2:]
            blocks[name] = _LEVELS.get(width) if height == width else None

    for name, child in classifier.named_children():
        elements = child.named_children() if isinstance(child, nn.Sequential) else [("", child)]
        for element, block in elements:
            path = f"{name}.{element}".rstrip(".")
            block.register_forward_hook(lambda _, inputs, outputs, path=path: record(path, inputs[0], outputs))
    try:
        classifier(image)
    except (RuntimeError, AssertionError):  # the classifier takes images of one size only
        return {}
    return blocks


@torch.no_grad()
def _measure_channels(body: Body, in_channels: int) -> list[int]:
    """Measure the channels of a body's maps: some bodies add up rounded numbers of channels."""
    training = body.training
    maps = body.eval()(next(body.parameters()).new_zeros(1, in_channels, 64, 64))
    body.train(training)
    return [map_.shape[1] for map_ in maps.values()]
