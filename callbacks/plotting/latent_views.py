"""Views of a latent space as sheets. Pure functions: codes and draws of the prior are float32 (N, D) on the CPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from darkroom.callbacks.plotting.grids import picture_grid
from darkroom.callbacks.plotting.scatter import scatter

Decode = Callable[[Tensor, Tensor | None], Tensor]  # codes (N, D) and labels (N,) -> pictures uint8 (N, 3, H, W)


def activity(codes: Tensor) -> Tensor:
    """How much the encodings vary along each dimension, (D,): a dimension that says nothing about a picture has 0."""
    return codes.var(0, correction=0)


def manifold(decode: Decode, prior: Tensor, code: Tensor, dimensions: Sequence[int], size: int) -> Tensor:
    """What one or two dimensions decode to at evenly spaced quantiles of the prior.

    Kingma and Welling 2014, appendix A, figure 4. The first dimension goes to the right, the second up.

    Args:
        decode: codes to pictures.
        prior: draws of it.
        code: (D,), where the other dimensions stay: that of a picture, since the mean of all may decode to none.
        dimensions: one or two.
        size: pictures along each.
    """
    axes = _quantiles(prior, dimensions, size)
    points = torch.cartesian_prod(*axes.flip(0).unbind()).view(-1, len(axes)).flip(1)  # the first one varies fastest
    rows = decode(_placed(code, dimensions, points), None).split(size)
    ways = " and ".join(
        f"z{dimension} {way}" for dimension, way in zip(dimensions, ("to the right", "up"), strict=False)
    )
    across, *up = (_edges(values) for values in axes)
    names = up[0][::-1] if up else ()
    return picture_grid(rows[::-1], names, across, f"{ways}, {_elsewhere(code, dimensions)}", gap=0)


def manifold_of_classes(
    decode: Decode, prior: Tensor, code: Tensor, dimension: int, size: int, names: Sequence[str]
) -> Tensor:
    """The same of a conditional technique: one dimension to the right, a class in each row.

    Args: as of ``manifold``; ``names`` are those of the first classes, one for each row.
    """
    axis = _quantiles(prior, [dimension], size)
    codes = _placed(code, [dimension], axis.T)
    labels = torch.arange(len(names)).repeat_interleave(size)
    rows = decode(codes.repeat(len(names), 1), labels).split(size)
    title = f"z{dimension} to the right, {_elsewhere(code, [dimension])}"
    return picture_grid(rows, names, _edges(axis[0]), title, gap=0)


def traversals(
    decode: Decode,
    prior: Tensor,
    code: Tensor,
    label: Tensor | None,
    dimensions: Sequence[int],
    active: Tensor,
    picture: Tensor,
) -> Tensor:
    """One picture's code with one dimension in each row moved from -3 to 3 standard deviations of the prior.

    Args:
        decode: codes to pictures.
        prior: draws of it; nothing is decoded that lies beyond them.
        code: (D,), of the picture.
        label: its class, int64 (), for conditional techniques.
        dimensions: those that are moved.
        active: (D,), see ``activity``.
        picture: uint8 (3, H, W), whose code it is; shown at the left.
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
    heads = ["picture", *(f"{deviation:+g}" if deviation else "0" for deviation in deviations.tolist())]
    title = "each row moves one dimension of one picture's code; in brackets the variance of its encodings"
    return picture_grid([[picture, *row] for row in rows], names, heads, title)


def encodings(codes: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> Tensor:
    """Codes in the plane, in the colours of their classes; of more than two dimensions, the two principal components.

    Args:
        codes: finite.
        labels: int64 (N,); None: one colour.
        class_names: of the labels, as far as there are any.
    """
    dimensions, title = codes.shape[1], f"encodings of {len(codes)} pictures"
    axes = ("z0", "z1" if dimensions > 1 else "")
    if dimensions == 1:
        codes = torch.cat([codes, torch.zeros_like(codes)], 1)
    elif dimensions > 2:
        codes, part = principal_components(codes)
        axes = ("component 1", "component 2")
        title += f": 2 principal components of {dimensions} dimensions, {part:.0%} of the variance"
    return scatter(codes, labels, class_names, title, axes)


def principal_components(codes: Tensor) -> tuple[Tensor, float]:
    """The coordinates of codes (N, D) along the two directions in which they vary most, (N, 2), and the part of their
    variance, in [0, 1], that these show. A direction's largest coordinate is positive, so that views can be compared."""
    centred = codes.double() - codes.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
    two = directions[:, -2:].flip(1)
    two = two * two.gather(0, two.abs().argmax(0, keepdim=True)).sign()
    part = variances[-2:].sum() / variances.sum().clamp(min=1e-12)
    return (centred @ two).float(), float(part)


def _quantiles(prior: Tensor, dimensions: Sequence[int], size: int) -> Tensor:
    """The middles of ``size`` equally probable parts of each dimension: (dimensions, size)."""
    return torch.quantile(prior[:, list(dimensions)], (torch.arange(size) + 0.5) / size, dim=0).T


def _edges(values: Tensor) -> list[str]:
    """The first, the middle and the last of an axis' values as text, nothing at the others."""
    shown = {0, len(values) // 2, len(values) - 1}
    rounded = [round(value, 1) for value in values.tolist()]
    return [(f"{value:+g}" if value else "0") if index in shown else "" for index, value in enumerate(rounded)]


def _elsewhere(code: Tensor, dimensions: Sequence[int]) -> str:
    """What a manifold shows, and where the dimensions are that it leaves alone."""
    others = len(code) - len(dimensions)
    return "at quantiles of the prior" + (f"; the other {others} as in one picture's code" if others else "")


def _placed(code: Tensor, dimensions: Sequence[int], points: Tensor) -> Tensor:
    """Codes (N, D) at points (N, dimensions), everywhere else as one code is."""
    codes = code.repeat(len(points), 1)
    codes[:, list(dimensions)] = points
    return codes
