"""Feature maps for detectors: any torchvision classifier, of any width, as a body, and a feature pyramid."""

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import Weights, copy_conv, scale_channels
from darkroom.lightning_modules.utils.torchvision_weights import fetch_weights

Norm = Literal["batch", "frozen"]

# A side that every stride up to 32 divides, too large for a classifier's final pooling to be taken for a stride.
_SIDE = 256
_LEVELS = {_SIDE >> level: level for level in range(6)}
_EXAMPLES = "resnet18, resnet50, mobilenet_v3_large, efficientnet_b0, regnet_y_400mf, densenet121 or vgg16_bn"


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch norm with constant statistics and factors: torchvision's as one kernel, in bf16 under autocast."""

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d of a module, itself included, by a frozen one of the same values; return the module."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, module.eps).to(module.weight.device)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_norms(child))
    return module


def narrow(module: nn.Module, width: float) -> None:
    """Multiply the channels of a classifier, or of its convolutional part, by ``width``, in place, with new weights.

    The channels of the images and the classes of a last Linear layer are kept. Grouped convolutions keep the channels of a
    group as far as they divide. Convolutions start from He's initialization.
    On a CPU with channels_last keep 16 channels or more: PyTorch 2.15 crashes in the backward pass of narrower 1 x 1
    convolutions with a stride.

    Args:
        module: consists of convolutions, BatchNorm2d and Linear, as torchvision's; the new layers leave the meta device.
        width: factor on the channels of every layer, above 0.

    Raises:
        UsageError: a layer with weights is of another type; names the first one.
    """
    if width <= 0:
        raise UsageError(f"model.width must be a factor above 0, got {width}")
    layers = [(name, layer) for name, layer in module.named_modules() if layer._parameters]
    for name, layer in layers:
        if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            raise UsageError(
                f"model.width must be 1 for this backbone, got {width}: {name}, a {type(layer).__name__}, "
                "cannot be narrowed"
            )
    seen = 0
    for name, layer in layers:
        if isinstance(layer, nn.Conv2d):
            narrowed: nn.Module = _narrow_conv(layer, width, first=not seen)
            seen = layer.out_channels
        elif isinstance(layer, nn.BatchNorm2d):
            narrowed = nn.BatchNorm2d(scale_channels(layer.num_features, width), layer.eps, layer.momentum)
        elif isinstance(layer, nn.Linear):
            classes = name == layers[-1][0]
            # The first Linear layer takes a flattened map, several pixels of each channel.
            inputs = layer.in_features // seen * scale_channels(seen, width)
            narrowed = nn.Linear(inputs, layer.out_features if classes else scale_channels(layer.out_features, width))
            seen = layer.out_features
        module.set_submodule(name, narrowed)


def _narrow_conv(conv: nn.Conv2d, width: float, first: bool) -> nn.Conv2d:
    inputs = conv.in_channels if first else scale_channels(conv.in_channels, width)
    outputs = scale_channels(conv.out_channels, width)
    groups = math.gcd(scale_channels(conv.groups, width), inputs, outputs) if conv.groups > 1 else 1
    narrowed = copy_conv(conv, inputs, outputs, groups)
    nn.init.kaiming_normal_(narrowed.weight, mode="fan_out", nonlinearity="relu")
    if narrowed.bias is not None:
        nn.init.zeros_(narrowed.bias)
    return narrowed


def fetch_imagenet_weights(name: str) -> dict[str, Tensor]:
    """Fetch torchvision's first ImageNet weights of a classifier; those of ResNet are what its detectors start from."""
    return fetch_weights(torchvision.models.get_model_weights(name).IMAGENET1K_V1)


def load_matching_weights(network: nn.Module, state: dict[str, Tensor], option: str = "model.weights") -> None:
    """Load the weights of a detector, except those of another shape, which belong to its classes.

    Raises:
        UsageError: weights are missing.
    """
    ours = network.state_dict()
    other = {name for name, value in state.items() if name in ours and ours[name].shape != value.shape}
    # Not only our names: torchvision's modules rename the weights of old files themselves.
    outcome = network.load_state_dict({name: state[name] for name in state if name not in other}, strict=False)
    missing = [name for name in outcome.missing_keys if name not in other and not name.endswith("num_batches_tracked")]
    if missing:
        raise UsageError(f"{option}: the file has no values for {len(missing)} weights: {', '.join(missing[:4])}")


# --- the body ---------------------------------------------------------------------------------------------------------


class Body(nn.Module):
    """Sequence of blocks of a classifier: (B, 3, H, W) -> the maps of some of them, by name.

    The parameters keep the classifier's names.

    Args:
        classifier: its children are moved to the body.
        blocks: names of the blocks: of children, or of the elements of Sequential children.
        ends: name of the map for each block that returns one.
    """

    def __init__(self, classifier: nn.Module, blocks: Sequence[str], ends: dict[str, str]) -> None:
        super().__init__()
        self.blocks, self.ends = list(blocks), ends
        for name, child in classifier.named_children():
            inner = sum(block.startswith(f"{name}.") for block in blocks)
            if inner:
                child = nn.Sequential(OrderedDict(list(child.named_children())[:inner]))
            if inner or name in blocks:
                self.add_module(name, child)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for block in self.blocks:
            x = self.get_submodule(block)(x)
            if block in self.ends:
                maps[self.ends[block]] = x
        return maps


def build_backbone(
    name: str,
    levels: Sequence[int] = (2, 3, 4, 5),
    width: float = 1.0,
    weights: Weights | None = None,
    norm: Norm = "batch",
    frozen_stages: int = 0,
) -> tuple[Body, list[int]]:
    """Build the body of a torchvision classifier: (B, 3, H, W) -> its last map of each level, named "0", "1", ...

    Level l has stride 2^l; for a ResNet, levels 2 to 5 are the papers' C2 to C5.

    Args:
        name: classifier of torchvision whose maps halve: ResNet, MobileNet, EfficientNet, RegNet, DenseNet, VGG ...
        levels: ascending, of 1 to 5.
        width: factor on the channels of every layer.
        weights: imagenet: start from torchvision's.
        norm: frozen: batch norms have constant statistics and factors; for pretrained weights and small batches.
        frozen_stages: layers up to this level are frozen; 0 to 5. torchvision's detectors freeze 2 of a ResNet.

    Returns:
        The body and the channels of its maps.
    """
    if width != 1 and weights is not None:
        raise UsageError(f"model.width must be 1 with model.weights {weights}, got {width}")
    if not 0 <= frozen_stages <= 5:
        raise UsageError(f"model.frozen_stages must be a level from 0 (none) to 5 (all layers), got {frozen_stages}")
    model = _template(name)
    blocks = _blocks(model)
    names, ends = list(blocks), {level: block for block, level in blocks.items()}  # the last one of each level
    for level in (*levels, *[frozen_stages] * bool(frozen_stages)):
        if level not in ends:
            raise UsageError(f"model.backbone {name} has no map of stride {2**level}; use for example {_EXAMPLES}")
    if width != 1:
        narrow(model, width)
    elif next(model.parameters()).is_meta:
        model = torchvision.models.get_model(name, weights=None)
    if weights == "imagenet":
        model.load_state_dict(fetch_imagenet_weights(name))
    for block in names[: names.index(ends[frozen_stages]) + 1] if frozen_stages else []:
        model.set_submodule(block, freeze_norms(model.get_submodule(block).requires_grad_(False)))
    if norm == "frozen":
        freeze_norms(model)
    last = names.index(ends[levels[-1]]) + 1
    body = Body(model, names[:last], {ends[level]: str(index) for index, level in enumerate(levels)})
    return body, _channels(body, name, width)


def _template(name: str) -> nn.Module:
    """Build the classifier on the meta device, or on the CPU where its constructor computes."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UsageError(f"model.backbone must be a classifier of torchvision, such as {_EXAMPLES}, got {name}")
    try:
        with torch.device("meta"):
            return torchvision.models.get_model(name, weights=None)
    except NotImplementedError:
        return torchvision.models.get_model(name, weights=None)


def _blocks(classifier: nn.Module) -> dict[str, int | None]:
    """Trace the blocks that a classifier runs in sequence, from the image on; return their maps' levels.

    A block is a child, or an element of a Sequential child, never a part of a residual block.
    """
    classifier = copy.deepcopy(classifier).to("meta").eval()
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
def _channels(body: nn.Module, name: str, width: float) -> list[int]:
    """Return the channels of the body's maps, measured: some bodies add up rounded numbers of channels."""
    training = body.training
    try:
        maps = body.eval()(next(body.parameters()).new_zeros(1, 3, 64, 64))
    except RuntimeError as error:
        raise UsageError(f"model.backbone {name} cannot be built at model.width {width} ({error})") from None
    body.train(training)
    return [map_.shape[1] for map_ in maps.values()]


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al. 2017): images (B, 3, H, W) -> maps of ``out_channels`` by name, finest first.

    Args:
        body: maps images to maps by name, see ``build_backbone``.
        in_channels: channels of its maps.
        out_channels: channels of the pyramid's maps; 256 is the paper's.
        pool: add a map, "pool", of half the sides of the last.
    """

    def __init__(self, body: nn.Module, in_channels: list[int], out_channels: int = 256, pool: bool = True) -> None:
        super().__init__()
        self.body, self.out_channels = body, out_channels
        self.fpn = FeaturePyramidNetwork(in_channels, out_channels, LastLevelMaxPool() if pool else None)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


class SingleMap(nn.Module):
    """Wrapper of a body with one map that has ``out_channels``, as torchvision's detectors need it."""

    def __init__(self, body: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body, self.out_channels = body, out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.body(x)
