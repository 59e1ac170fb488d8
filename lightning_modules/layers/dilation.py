"""Dilation instead of strides: the maps of a body at a finer stride, with the same weights."""

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.body import Body
from darkroom.lightning_modules.layers.efficientnet_lite import SamePadding

_SIDE = 64  # of the image that is traced, in pixels


def dilate_body(body: Body, stride: int = 8) -> Body:
    """Replace the strides of a body after ``stride`` by dilation, in place; return the body.

    The maps of coarser levels get this stride. Every layer is dilated by the strides that were removed before it (Yu &
    Koltun 2016, section 4), and its padding grows with it. So the cells of the original map are among those of the new one,
    unchanged: for stride S every (S / ``stride``)-th cell.

    Args:
        body: its strides after ``stride`` are those of convolutions, as of every ``FeatureBackbone``.
        stride: finest stride that is kept as the stride of all later maps, a power of 2.

    Raises:
        UsageError: the body has a pooling after this stride; names it.
    """
    for name, before in _input_strides(body).items():
        if before < stride:
            continue
        layer, dilation = body.get_submodule(name), before // stride
        if isinstance(layer, SamePadding):
            layer.dilation = dilation
        elif isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            vertical, horizontal = layer.padding
            layer.padding = vertical * dilation, horizontal * dilation
            layer.stride = 1, 1
            if layer.kernel_size != (1, 1):
                layer.dilation = dilation, dilation
        else:
            raise UsageError(
                f"model.backbone must have no pooling after stride {stride} to be dilated, got {name}, a "
                f"{type(layer).__name__}; use for example resnet18, mobilenet_v2 or efficientnet_lite0"
            )
    return body


@torch.no_grad()
def _input_strides(body: Body) -> dict[str, int]:
    """Trace the stride of the input of every convolution, padding and pooling of a body, by name."""
    strides: dict[str, int] = {}

    def record(name: str, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):  # its input may be padded
            strides[name] = _SIDE // (outputs.shape[-1] * layer.stride[0])
        else:
            strides[name] = _SIDE // inputs.shape[-1]

    hooks = [
        layer.register_forward_hook(lambda layer, inputs, outputs, name=name: record(name, layer, inputs[0], outputs))
        for name, layer in body.named_modules()
        if isinstance(layer, nn.Conv2d | SamePadding | nn.MaxPool2d | nn.AvgPool2d)
    ]
    training, first = body.training, next(body.parameters())
    body.eval()(first.new_zeros(1, first.shape[1], _SIDE, _SIDE))
    body.train(training)
    for hook in hooks:
        hook.remove()
    return strides
