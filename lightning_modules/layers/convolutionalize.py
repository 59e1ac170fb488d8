"""Convolutionalization: a classifier, run as a convolution, gives a map of answers (Long et al. 2015, section 3.1)."""

import copy

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from darkroom.errors import UsageError


def linear_to_conv(linear: nn.Linear, side: int) -> nn.Conv2d:
    """A Linear layer over a flattened (C, side, side) map as the convolution that is its equal there."""
    channels, rest = divmod(linear.in_features, side**2)
    if rest:
        raise UsageError(f"a Linear layer of {linear.in_features} inputs cannot see a map of {side} x {side}")
    conv = nn.Conv2d(channels, linear.out_features, side, bias=linear.bias is not None)
    conv.weight = nn.Parameter(linear.weight.detach().reshape(-1, channels, side, side))
    conv.bias = linear.bias
    return conv


def _fixed_pool(before: torch.Size, after: torch.Size) -> tuple[int, int]:
    """Kernel and stride of the average pooling that an adaptive one is at the training size."""
    (rows, columns), (out, out_columns) = before[-2:], after[-2:]
    if rows != columns or out != out_columns or rows % out:
        raise UsageError(f"adaptive pooling from {rows} x {columns} to {out} x {out_columns} has no fixed window")
    return rows // out, 1 if out == 1 else rows // out


def _flattens(node: fx.Node, shape: dict[fx.Node, torch.Size]) -> bool:
    """Whether it turns maps into vectors; a view may do anything."""
    return len(shape.get(node.args[0], ())) == 4 and len(shape[node]) == 2


def _square(shape: torch.Size) -> int:
    if shape[-1] != shape[-2]:
        raise UsageError(f"the first Linear layer sees a map of {shape[-2]} x {shape[-1]}; only square ones can slide")
    return shape[-1]


_FLATTENING = (torch.flatten, "flatten", "view", "reshape")


def convolutionalize(classifier: nn.Module, window: int = 224, in_channels: int = 3) -> fx.GraphModule:
    """Turns a classifier that ends in Linear layers into a fully convolutional network of the same weights.

    On images (B, C, window, window) it gives (B, K, 1, 1): what the classifier gives as (B, K). On larger ones it gives a
    map: an answer for every window that the strides step on. Linear layers become convolutions, flattening disappears,
    adaptive pooling gets the fixed window that it has at the training size. The parameters keep their names. Where the
    classifier's convolutions pad, the cells of a larger map see their neighbours in place of the padding.

    Args:
        classifier: any that torch.fx can trace, like torchvision's AlexNet, VGG and ResNet; a copy of it is changed.
        window: side of the images that it classifies, in pixels.
        in_channels: C.

    Raises:
        UsageError: if it has no Linear layer, sees no square map, or pools adaptively with no fixed window at this size or
            before its last convolution (squeeze and excitation).
    """
    training = classifier.training
    graph = fx.symbolic_trace(copy.deepcopy(classifier).eval())
    ShapeProp(graph).propagate(next(classifier.parameters()).new_zeros(2, in_channels, window, window))
    shape = {
        node: node.meta["tensor_meta"].shape
        for node in graph.graph.nodes
        if hasattr(node.meta.get("tensor_meta"), "shape")
    }
    side, linears, pooled = None, 0, None
    for node in list(graph.graph.nodes):
        layer = graph.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d) and pooled:
            raise UsageError(f"{pooled} pools the whole window before the convolution {node.target}: no fixed window")
        if isinstance(layer, nn.Linear):
            if side is None:
                raise UsageError(f"{node.target}, the first Linear layer, sees no flattened map")
            graph.set_submodule(node.target, linear_to_conv(layer, side))
            side, linears = 1, linears + 1
        elif (isinstance(layer, nn.Flatten) or node.target in _FLATTENING) and _flattens(node, shape):
            side = _square(shape[node.args[0]])
            node.replace_all_uses_with(node.args[0])
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            pooled = node.name
            graph.set_submodule(node.target, nn.AvgPool2d(*_fixed_pool(shape[node.args[0]], shape[node])))
        elif node.target is F.adaptive_avg_pool2d:
            pooled = node.name
            node.target, node.args = F.avg_pool2d, (node.args[0], *_fixed_pool(shape[node.args[0]], shape[node]))
            node.kwargs = {}
    if not linears:
        raise UsageError(f"{type(classifier).__name__} has no Linear layer; it is fully convolutional already")
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph.train(training)
