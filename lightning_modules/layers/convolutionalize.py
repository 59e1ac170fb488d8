"""Convolutionalization: run a classifier as a convolution that returns a map (Long et al. 2015, section 3.1)."""

import copy
from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.eval_mode import eval_mode

# Largest number of pixels by which padding may widen a window: 236 for VGG19.
_LARGEST_CONTEXT = 1024


def linear_to_conv(linear: nn.Linear, side: int) -> nn.Conv2d:
    """Convert a Linear layer over a flattened (C, side, side) map to the equivalent convolution."""
    channels, rest = divmod(linear.in_features, side**2)
    if rest:
        raise UsageError(f"a Linear layer of {linear.in_features} inputs does not fit a map of {side} x {side}")
    conv = nn.Conv2d(channels, linear.out_features, side, bias=linear.bias is not None)
    conv.weight = nn.Parameter(linear.weight.detach().reshape(-1, channels, side, side))
    conv.bias = linear.bias
    return conv


def _fixed_pool(before: torch.Size, after: torch.Size) -> tuple[int, int]:
    """Return kernel and stride of the average pooling that equals an adaptive one at the training size."""
    (rows, columns), (out, out_columns) = before[-2:], after[-2:]
    if rows != columns or out != out_columns or rows % out:
        raise UsageError(f"adaptive pooling from {rows} x {columns} to {out} x {out_columns} has no fixed window")
    return rows // out, 1 if out == 1 else rows // out


def _flattens(node: fx.Node, shape: dict[fx.Node, torch.Size]) -> bool:
    """Return whether a node flattens maps to vectors; a view may return any shape."""
    source = node.args[0]
    return isinstance(source, fx.Node) and len(shape.get(source, ())) == 4 and len(shape[node]) == 2


def _averages_pixels(node: fx.Node, shape: dict[fx.Node, torch.Size]) -> bool:
    """Return whether a node is a global average pooling of maps that is written as a mean over both axes of pixels."""
    if node.target not in ("mean", torch.mean) or len(shape.get(node.all_input_nodes[0], ())) != 4:
        return False
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return isinstance(dims, Sequence) and {dim % 4 for dim in dims if isinstance(dim, int)} == {2, 3}


def _square(shape: torch.Size) -> int:
    if shape[-1] != shape[-2]:
        raise UsageError(f"the map before the first Linear layer must be square, got {shape[-2]} x {shape[-1]}")
    return shape[-1]


_FLATTENING = (torch.flatten, "flatten", "view", "reshape")


def convolutionalize(classifier: nn.Module, window: int = 224, in_channels: int = 3) -> fx.GraphModule:
    """Convert a classifier that ends in Linear layers to a fully convolutional network with the same weights.

    On images (B, C, window, window) it returns the classifier's logits (B, K) as (B, K, 1, 1). On larger images it returns
    a map with the logits of every window at the network's stride. Linear layers become convolutions, flattening is removed,
    adaptive pooling gets its window at the training size. The parameters keep their names. If the classifier's
    convolutions pad, cells of a larger map depend on neighbouring pixels instead of the padding: ``remove_padding``.

    Args:
        classifier: traceable by torch.fx, like torchvision's AlexNet, VGG and ResNet; it is copied.
        window: side of the images that it classifies, in pixels.
        in_channels: C.

    Raises:
        UsageError: it has no Linear layer, its last map is not square, or an adaptive pooling has no fixed window at this
            size or precedes the last convolution (squeeze and excitation).
    """
    training = classifier.training
    graph = fx.symbolic_trace(copy.deepcopy(classifier).eval())
    ShapeProp(graph).propagate(next(classifier.parameters()).new_zeros(2, in_channels, window, window))
    metadata = {node: node.meta.get("tensor_meta") for node in graph.graph.nodes}
    shape = {node: meta.shape for node, meta in metadata.items() if isinstance(meta, TensorMetadata)}
    side, linears, pooled = None, 0, None
    for node in list(graph.graph.nodes):
        layer = graph.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d) and pooled:
            raise UsageError(f"{pooled} pools the whole window before the convolution {node.target}: no fixed window")
        if isinstance(layer, nn.Linear):
            if side is None:
                raise UsageError(f"{node.target}, the first Linear layer, must follow a flattened map")
            graph.set_submodule(node.target, linear_to_conv(layer, side))
            side, linears = 1, linears + 1
        elif (isinstance(layer, nn.Flatten) or node.target in _FLATTENING) and _flattens(node, shape):
            side = _square(shape[node.args[0]])
            node.replace_all_uses_with(node.args[0])
        elif _averages_pixels(node, shape):
            pooled, side, before = node.name, 1, shape[node.args[0]]
            with graph.graph.inserting_before(node):
                pooling = graph.graph.call_function(F.avg_pool2d, (node.args[0], _square(before), 1))
            shape[pooling] = torch.Size((*before[:2], 1, 1))
            node.replace_all_uses_with(pooling)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            pooled = node.name
            graph.set_submodule(node.target, nn.AvgPool2d(*_fixed_pool(shape[node.args[0]], shape[node])))
        elif node.target is F.adaptive_avg_pool2d:
            pooled = node.name
            node.target, node.args = F.avg_pool2d, (node.args[0], *_fixed_pool(shape[node.args[0]], shape[node]))
            node.kwargs = {}
    if not linears:
        raise UsageError(f"{type(classifier).__name__} has no Linear layer; it must end in Linear layers")
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph.train(training)


def remove_padding(network: nn.Module) -> nn.Module:
    """Set the padding of all convolutions and poolings to 0 and let poolings round down; return the network.

    A convolutionalized network then computes every cell from the same pixels in a crop and in a larger image.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding, layer.padding_mode = (0, 0), "zeros"
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            layer.padding, layer.ceil_mode = 0, False
    return network


def field_of_cell(network: nn.Module, window: int, in_channels: int = 3) -> tuple[int, int]:
    """Measure the side of the smallest crop, at least ``window``, that gives a cell, and the stride, both in pixels.

    Args:
        network: convolutionalized, without padding.
        window: side of the images for which the classifier was built, in pixels.
        in_channels: C.

    Raises:
        UsageError: the network does not run without padding, as with skip connections around padded convolutions.
    """
    with torch.device("meta"):
        probe = copy.deepcopy(network).to("meta").eval()

        def cells(side: int) -> int:
            try:
                return probe(torch.empty(1, in_channels, side, side)).shape[-1]
            except RuntimeError:
                return 0

        sides = range(window, window + _LARGEST_CONTEXT)
        index = bisect_left(sides, 1, key=lambda side: min(1, cells(side)))
        if index == len(sides):
            raise UsageError(
                "model.classifier must run with its padding set to 0, which skip connections around padded convolutions "
                "prevent; use model.backbone (AlexNet or a VGG) or a classifier whose layers follow one another"
            )
        return sides[index], 1024 // (cells(sides[index] + 1024) - 1)


def equals_crops(network: nn.Module, window: int, stride: int, in_channels: int = 3) -> bool:
    """Return whether a dense pass and single crops give the same logits, on noise, in evaluation."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, in_channels, window + 2 * stride, window + stride, generator=generator)
    crops = image.unfold(2, window, stride).unfold(3, window, stride)[0].permute(1, 2, 0, 3, 4)
    with torch.no_grad(), eval_mode(network):
        one_by_one = network(crops.flatten(0, 1))[..., 0, 0]
        dense = network(image)[0].flatten(1).T
    return dense.shape == one_by_one.shape and torch.allclose(dense, one_by_one, atol=1e-3 * dense.abs().max().item())
