"""Views of a latent space. Pure functions; codes and samples of the prior are float32 (N, D) on the CPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from darkroom.callbacks.plotting.drawing import Plot
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.callbacks.plotting.scatter import scatter

Decode = Callable[[Tensor, Tensor | None], Tensor]  # codes (N, D) and labels (N,) -> images uint8 (N, 3, H, W)


def activity(codes: Tensor) -> Tensor:
    """Return the variance of the encodings along each dimension, (D,); it is 0 for an unused dimension."""
    return codes.var(0, correction=0)


def manifold(decode: Decode, prior: Tensor, code: Tensor, dimensions: Sequence[int], size: int) -> ImagePage:
    """Decode one or two dimensions at evenly spaced quantiles of the prior.

    Kingma and Welling 2014, appendix A, figure 4. The first dimension is horizontal, the second vertical, upward.

    Args:
        decode: function from codes to images.
        prior: samples of the prior.
        code: (D,), values of the other dimensions; of an image, since the mean of codes may not decode to an image.
        dimensions: one or two.
        size: images along each.
    """
    axes = _quantiles(prior, dimensions, size)
    points = torch.cartesian_prod(*axes.flip(0).unbind()).view(-1, len(axes)).flip(1)  # the first one varies fastest
    rows = decode(_place(code, dimensions, points), None).split(size)
    directions = " and ".join(
        f"z{dimension} {direction}" for dimension, direction in zip(dimensions, ("to the right", "up"), strict=False)
    )
    across, *up = (_edge_labels(values) for values in axes)
    names = up[0][::-1] if up else ()
    return image_grid(rows[::-1], names, across, f"{directions}, {_describe_others(code, dimensions)}", gap=0)


def manifold_of_classes(
    decode: Decode, prior: Tensor, code: Tensor, dimension: int, size: int, names: Sequence[str]
) -> ImagePage:
    """Decode one dimension of a conditional model at quantiles of the prior, with a class in each row.

    Args as in ``manifold``; ``names`` are those of the first classes, one for each row.
    """
    axis = _quantiles(prior, [dimension], size)
    codes = _place(code, [dimension], axis.T)
    labels = torch.arange(len(names)).repeat_interleave(size)
    rows = decode(codes.repeat(len(names), 1), labels).split(size)
    title = f"z{dimension} to the right, {_describe_others(code, [dimension])}"
    return image_grid(rows, names, _edge_labels(axis[0]), title, gap=0)


def traversals(
    decode: Decode,
    prior: Tensor,
    code: Tensor,
    label: Tensor | None,
    dimensions: Sequence[int],
    active: Tensor,
    image: Tensor,
) -> ImagePage:
    """Decode one image's code with one dimension in each row moved from -3 to 3 standard deviations of the prior.

    Args:
        decode: function from codes to images.
        prior: samples of the prior; values are clamped to their range.
        code: (D,), of the image.
        label: its class, int64 (), for conditional models.
        dimensions: those that are moved.
        active: (D,), see ``activity``.
        image: uint8 (3, H, W), the image of the code, shown at the left.
    """
    deviations = torch.arange(-3, 3.5, 0.5)
    std, mean = torch.std_mean(prior, 0)
    at = (mean + deviations[:, None] * std).clamp(prior.amin(0), prior.amax(0))
    codes = code.repeat(len(dimensions), len(at), 1)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = at[:, dimension]
    codes = codes.flatten(0, 1)
    rows = decode(codes, None if label is None else label.expand(len(codes))).split(len(at))
    names = [f"z{dimension} ({active[dimension]:.2f})" for dimension in dimensions]
    heads = ["image", *(f"{deviation:+g}" if deviation else "0" for deviation in deviations.tolist())]
    title = "each row moves one dimension of one image's code; in brackets the variance of its encodings"
    return image_grid([[image, *row] for row in rows], names, heads, title)


def encodings(codes: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> Plot:
    """Plot codes in the colours of their classes; of more than two dimensions, the two principal components.

    Args:
        codes: finite.
        labels: int64 (N,); None: one colour.
        class_names: names of the labels; empty without classes.
    """
    dimensions, title = codes.shape[1], f"encodings of {len(codes)} images"
    axes = ("z0", "z1" if dimensions > 1 else "")
    if dimensions == 1:
        codes = torch.cat([codes, torch.zeros_like(codes)], 1)
    elif dimensions > 2:
        codes, fraction = principal_components(codes)
        axes = ("component 1", "component 2")
        title += f": 2 principal components of {dimensions} dimensions, {fraction:.0%} of the variance"
    return scatter(codes, labels, class_names, title, axes)


def principal_components(codes: Tensor) -> tuple[Tensor, float]:
    """Return the coordinates of codes (N, D) along their two principal components, (N, 2), and the explained fraction of
    their variance, in [0, 1]. The largest coordinate of a component is positive, so that figures can be compared."""
    centred = codes.double() - codes.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
    two = directions[:, -2:].flip(1)
    two = two * two.gather(0, two.abs().argmax(0, keepdim=True)).sign()
    fraction = variances[-2:].sum() / variances.sum().clamp(min=1e-12)
    return (centred @ two).float(), float(fraction)


def _quantiles(prior: Tensor, dimensions: Sequence[int], size: int) -> Tensor:
    """Return the medians of ``size`` equally probable intervals of each dimension: (dimensions, size)."""
    return torch.quantile(prior[:, list(dimensions)], (torch.arange(size) + 0.5) / size, dim=0).T


def _edge_labels(values: Tensor) -> list[str]:
    """Return the first, the middle and the last value of an axis as text, and empty text for the others."""
    labelled = {0, len(values) // 2, len(values) - 1}
    rounded = [round(value, 1) for value in values.tolist()]
    return [(f"{value:+g}" if value else "0") if index in labelled else "" for index, value in enumerate(rounded)]


def _describe_others(code: Tensor, dimensions: Sequence[int]) -> str:
    """Describe the quantiles of a manifold and the values of its other dimensions."""
    others = len(code) - len(dimensions)
    return "at quantiles of the prior" + (f"; the other {others} as in one image's code" if others else "")


def _place(code: Tensor, dimensions: Sequence[int], points: Tensor) -> Tensor:
    """Return codes (N, D): points (N, dimensions) in some dimensions, one code in the others."""
    codes = code.repeat(len(points), 1)
    codes[:, list(dimensions)] = points
    return codes
