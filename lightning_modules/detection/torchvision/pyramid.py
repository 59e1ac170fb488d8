"""Feature maps for detectors: any torchvision classifier as a body, of any width, and the pyramid on top of it."""

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
from darkroom.lightning_modules.layers.backbones import Weights, scaled
from darkroom.lightning_modules.utils.torchvision_weights import published

Norm = Literal["batch", "frozen"]

# A side at which every stride up to 32 divides and no classifier's final pooling passes for one.
_SIDE = 256
_LEVELS = {_SIDE >> level: level for level in range(6)}
_EXAMPLES = "resnet18, resnet50, mobilenet_v3_large, efficientnet_b0, regnet_y_400mf, densenet121 or vgg16_bn"


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch norm whose statistics and factors stay as they are: torchvision's as one kernel, in bf16 under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def freeze_norms(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm2d, itself too, replaced by a frozen one of the same values."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, module.eps).to(module.weight.device)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_norms(child))
    return module


def narrow(module: nn.Module, width: float) -> None:
    """Makes a classifier, or its convolutional part, ``width`` times as wide, in place, with new weights.

    The images' channels and, where the last layer is Linear, its classes keep their number; grouped convolutions keep the
    channels of a group as far as they divide. Convolutions start from He's initialisation.
    On a CPU with channels_last keep 16 channels or more: PyTorch 2.15 crashes in the backward pass of narrower 1 x 1
    convolutions with a stride.

    Args:
        module: of convolutions, BatchNorm2d and Linear, as torchvision's; it may lie on the meta device, and comes off it.
        width: factor on the channels of every layer, above 0.

    Raises:
        UsageError: naming the first layer with weights that is none of these.
    """
    if width <= 0:
        raise UsageError(f"model.width is {width}; it is a factor on the channels of every layer, above 0")
    layers = [(name, layer) for name, layer in module.named_modules() if layer._parameters]
    for name, layer in layers:
        if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            raise UsageError(
                f"model.width is {width}, but {name} is a {type(layer).__name__}, which has no narrow variant"
            )
    seen = 0
    for name, layer in layers:
        if isinstance(layer, nn.Conv2d):
            made, seen = _narrow_conv(layer, width, first=not seen), layer.out_channels
        elif isinstance(layer, nn.BatchNorm2d):
            made = nn.BatchNorm2d(scaled(layer.num_features, width), layer.eps, layer.momentum)
        else:
            classes = name == layers[-1][0]
            # The first one sees a flattened map: so many pixels of each channel.
            inputs = layer.in_features // seen * scaled(seen, width)
            made = nn.Linear(inputs, layer.out_features if classes else scaled(layer.out_features, width))
            seen = layer.out_features
        module.set_submodule(name, made)


def _narrow_conv(conv: nn.Conv2d, width: float, first: bool) -> nn.Conv2d:
    inputs = conv.in_channels if first else scaled(conv.in_channels, width)
    outputs = scaled(conv.out_channels, width)
    groups = math.gcd(scaled(conv.groups, width), inputs, outputs) if conv.groups > 1 else 1
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    made = nn.Conv2d(inputs, outputs, *shape, groups, conv.bias is not None, conv.padding_mode)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


def imagenet(name: str) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights of a classifier: of ResNet the ones its detectors start from."""
    return published(torchvision.models.get_model_weights(name).IMAGENET1K_V1)


def load_agreeing(network: nn.Module, state: dict[str, Tensor], option: str = "model.weights") -> None:
    """Loads a detector's weights but for those of another shape, which belong to its classes: these stay new.

    Raises:
        UsageError: if others are missing.
    """
    ours = network.state_dict()
    other = {name for name, value in state.items() if name in ours and ours[name].shape != value.shape}
    # All else, since torchvision's modules know what their weights were called in old files.
    outcome = network.load_state_dict({name: state[name] for name in state if name not in other}, strict=False)
    missing = [name for name in outcome.missing_keys if name not in other and not name.endswith("num_batches_tracked")]
    if missing:
        raise UsageError(f"{option}: the file lacks {len(missing)} weights: {', '.join(missing[:4])}")


# --- the body ---------------------------------------------------------------------------------------------------------


class Body(nn.Module):
    """Blocks of a classifier, one after another: (B, 3, H, W) -> the maps that some of them give, by name.

    The parameters keep the classifier's names.

    Args:
        classifier: its children are taken over.
        blocks: names of the blocks: of children, or of the elements of those that are Sequential.
        ends: block to the name of its map.
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


def backbone(
    name: str,
    levels: Sequence[int] = (2, 3, 4, 5),
    width: float = 1.0,
    weights: Weights | None = None,
    norm: Norm = "batch",
    frozen_stages: int = 0,
) -> tuple[Body, list[int]]:
    """The body of a torchvision classifier: (B, 3, H, W) -> its last map of each level, by the names "0", "1", ...

    Level l has stride 2^l; for a ResNet, levels 2 to 5 are what the papers call C2 to C5.

    Args:
        name: a classifier of torchvision whose maps halve: ResNet, MobileNet, EfficientNet, RegNet, DenseNet, VGG ...
        levels: ascending, of 1 to 5.
        width: factor on the channels of every layer.
        weights: imagenet: start from torchvision's.
        norm: frozen: no batch norm learns or counts; for weights that were trained elsewhere and batches of few images.
        frozen_stages: layers up to this level keep their weights; 0 to 5. torchvision's detectors freeze 2 of a ResNet.

    Returns:
        the body, and the channels of its maps.
    """
    if width != 1 and weights is not None:
        raise UsageError(f"model.weights {weights} is for model.width 1, not {width}")
    if not 0 <= frozen_stages <= 5:
        raise UsageError(f"model.frozen_stages is {frozen_stages}; it is a level, from 0 (none) to 5 (all layers)")
    model = _template(name)
    blocks = _blocks(model)
    names, ends = list(blocks), {level: block for block, level in blocks.items()}  # the last one of each level
    for level in (*levels, *[frozen_stages] * bool(frozen_stages)):
        if level not in ends:
            raise UsageError(f"model.backbone {name} has no map of stride {2**level}; take one like {_EXAMPLES}")
    if width != 1:
        narrow(model, width)
    elif next(model.parameters()).is_meta:
        model = torchvision.models.get_model(name, weights=None)
    if weights == "imagenet":
        model.load_state_dict(imagenet(name))
    for block in names[: names.index(ends[frozen_stages]) + 1] if frozen_stages else []:
        model.set_submodule(block, freeze_norms(model.get_submodule(block).requires_grad_(False)))
    if norm == "frozen":
        freeze_norms(model)
    last = names.index(ends[levels[-1]]) + 1
    body = Body(model, names[:last], {ends[level]: str(index) for index, level in enumerate(levels)})
    return body, _channels(body, name, width)


def _template(name: str) -> nn.Module:
    """The classifier on the meta device, but for those that compute while they are built."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UsageError(f"model.backbone is {name}; it is a classifier of torchvision, like {_EXAMPLES}")
    try:
        with torch.device("meta"):
            return torchvision.models.get_model(name, weights=None)
    except NotImplementedError:
        return torchvision.models.get_model(name, weights=None)


def _blocks(classifier: nn.Module) -> dict[str, int | None]:
    """The blocks that a classifier runs one after another, from the image on, and the levels of their maps.

    A block is a child of it, or an element of a Sequential child: never a part of a residual, whose maps end no stage.
    """
    classifier = copy.deepcopy(classifier).to("meta").eval()
    image = torch.empty(1, 3, _SIDE, _SIDE, device="meta")
    chain, blocks = [image], {}

    def note(name: str, given: Tensor, made: Tensor) -> None:
        if given is chain[-1] and isinstance(made, Tensor) and made.dim() == 4:
            chain.append(made)
            height, width = made.shape[-2:]
            blocks[name] = _LEVELS.get(width) if height == width else None

    for name, child in classifier.named_children():
        elements = child.named_children() if isinstance(child, nn.Sequential) else [("", child)]
        for element, block in elements:
            path = f"{name}.{element}".rstrip(".")
            block.register_forward_hook(lambda _, given, made, path=path: note(path, given[0], made))
    try:
        classifier(image)
    except (RuntimeError, AssertionError):  # those that take images of one size only
        return {}
    return blocks


@torch.no_grad()
def _channels(body: nn.Module, name: str, width: float) -> list[int]:
    """Channels of the body's maps, asked of the body itself: some add up what narrowing has rounded."""
    training = body.training
    try:
        maps = body.eval()(next(body.parameters()).new_zeros(1, 3, 64, 64))
    except RuntimeError as error:
        raise UsageError(f"model.backbone {name} does not fit together at model.width {width} ({error})") from None
    body.train(training)
    return [map_.shape[1] for map_ in maps.values()]


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al. 2017): images (B, 3, H, W) -> maps of ``out_channels`` by name, finest first.

    Args:
        body: images to maps by name, see ``backbone``.
        in_channels: channels of its maps.
        out_channels: channels of the pyramid's; 256 is the paper's.
        pool: one more map, "pool", of half the sides of the last.
    """

    def __init__(self, body: nn.Module, in_channels: list[int], out_channels: int = 256, pool: bool = True) -> None:
        super().__init__()
        self.body, self.out_channels = body, out_channels
        self.fpn = FeaturePyramidNetwork(in_channels, out_channels, LastLevelMaxPool() if pool else None)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


class SingleMap(nn.Module):
    """A body of one map as torchvision's detectors take it, with ``out_channels``."""

    def __init__(self, body: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body, self.out_channels = body, out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.body(x)
