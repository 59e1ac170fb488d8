"""Changes to classifiers of torchvision: other widths, and batch norms with constant statistics."""

import math

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import copy_conv, scale_channels


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


def freeze_first(features: nn.Module, count: int) -> None:
    """Freeze the first ``count`` convolutions of features, and the batch norms up to the next one, in place."""
    convolutions = 0
    for name, layer in list(features.named_modules()):
        convolutions += isinstance(layer, nn.Conv2d)
        if convolutions > count:
            return
        if isinstance(layer, nn.Conv2d):
            layer.requires_grad_(False)
        elif isinstance(layer, nn.BatchNorm2d):
            features.set_submodule(name, freeze_norms(layer))


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
