"""Receptive fields: the part of an image that the logits of a pixel depend on."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from darkroom.play.examples import png

GRID = 8  # pixels with a receptive field, along each side
_STORED = 64  # longest side of a stored field
_POINTWISE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Dropout, nn.Dropout2d)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class ReceptiveFields:
    """Receptive fields of the pixels of a grid, in rows.

    Args:
        rows, columns: of the grid.
        height, width: of a stored field.
        maps: PNG in Base64 of all fields, one below the other: the square root of the effective field, its largest 255.
        bounds: x0, y0, x1, y1 in pixels: all that can have an influence, the theoretical field.
        note: what is shown.
    """

    rows: int
    columns: int
    height: int
    width: int
    maps: str
    bounds: list[list[int]]
    note: str

    def as_data(self) -> dict[str, object]:
        """Return the fields for the script."""
        return asdict(self)


def measure_fields(network: nn.Module, images: Tensor) -> ReceptiveFields | None:
    """Measure the receptive fields of a network from images to logits of their size.

    The effective field of a pixel (Luo et al. 2016) is the absolute gradient of its largest logit with respect to the
    image, a sum over channels and a mean over images. The theoretical field is where the gradient of a network of the same
    layers with positive weights, without nonlinearities, is not 0.

    Args:
        network: in evaluation mode.
        images: float32 (B, C, H, W), normalized.

    Returns:
        None: the logits have no gradient with respect to the image.
    """
    height, width = images.shape[-2:]
    rows, columns = min(GRID, height), min(GRID, width)
    places = [((2 * row + 1) * height // (2 * rows), (2 * column + 1) * width // (2 * columns))
              for row in range(rows) for column in range(columns)]  # fmt: skip
    gradients = _gradients(network, images, places, lambda one: one.abs().sum(1).mean(0).sqrt())
    if gradients is None:
        return None
    effective = gradients / gradients.amax((1, 2), keepdim=True).clamp(min=1e-12)
    reached = _gradients(_positive(network), torch.ones_like(images[:1]), places, lambda one: one.sum((0, 1)) != 0)
    assert reached is not None, "has the operations of the network"
    high, wide = (max(1, side * _STORED // max(height, width, _STORED)) for side in (height, width))
    stored = torch.nn.functional.adaptive_max_pool2d(effective, (high, wide))
    return ReceptiveFields(
        rows,
        columns,
        high,
        wide,
        png((255 * stored).round().to(torch.uint8).flatten(0, 1).numpy()),
        [_bounds(one) for one in reached],
        f"Brightness: gradient of the pixel's largest logit, a mean over {len(images)} test images (effective field, Luo "
        f"et al. 2016). Dashed: all that can have an influence, from the layers. Computed for {rows} × {columns} pixels; "
        "the nearest one is shown.",
    )


def _gradients(
    network: nn.Module, images: Tensor, places: Sequence[tuple[int, int]], reduce: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """Return the gradients of the largest logit of each place, each reduced from (B, C, H, W) to (H, W): (P, H, W).

    Without the reduction, those of large images take gigabytes.
    """
    with torch.enable_grad():
        images = images.clone().requires_grad_()
        best = network(images).float().amax(1).sum(0)
        if not best.requires_grad:
            return None
        return torch.stack([reduce(torch.autograd.grad(best[y, x], images, retain_graph=True)[0]) for y, x in places])


def _bounds(reached: Tensor) -> list[int]:
    """Return the corners of the pixels that are True, or of the whole image if there are none."""
    rows, columns = reached.any(1).nonzero()[:, 0], reached.any(0).nonzero()[:, 0]
    if not len(rows):
        return [0, 0, reached.shape[1], reached.shape[0]]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _positive(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose outputs rise with every value that they depend on."""
    positive = copy.deepcopy(network)
    for module in list(positive.modules()):
        for name, child in list(module.named_children()):
            replacement = _linear(child)
            if replacement is not child:
                setattr(module, name, replacement)
    for value in positive.parameters():
        # Small enough that gradients of deep networks do not overflow, large enough that those at the edge do not vanish.
        weights = value[0].numel() / (value.shape[-1] if value.dim() == 4 else 1) if value.dim() > 1 else 1
        value.data.fill_(1 / weights if value.dim() > 1 else 0.0)
    return positive


def _linear(layer: nn.Module) -> nn.Module:
    """Return a linear layer with the same receptive field."""
    if isinstance(layer, (*_POINTWISE, *_NORMS)):
        return nn.Identity()
    if isinstance(layer, nn.MaxPool2d) and layer.dilation == 1 and not layer.return_indices:
        pooled: nn.Module = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
        return pooled
    return layer
