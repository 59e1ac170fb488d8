"""Linear support vector machines and ridge regression: convex problems, solved to a given accuracy on any device."""

import torch
from torch import Tensor

# Newton's method takes a few dozen steps; more than this means that float64 is not accurate enough.
_MOST_STEPS = 300
# Initial widths of the rounded corner of the hinge, in units of the margin.
_WIDTHS = [4.0**-power for power in range(8)]


def linear_svm(
    features: Tensor,
    targets: Tensor,
    cost: float = 1e-3,
    positive_weight: float = 2.0,
    bias_multiplier: float = 10.0,
    start: Tensor | None = None,
    tolerance: float = 1e-3,
) -> Tensor:
    """Solve one linear SVM per class: w that minimizes |w|^2 / 2 + cost sum_i c_i max(0, 1 - y_i w.x_i).

    As LIBLINEAR states it (solver 3): the bias is the weight of one more feature, ``bias_multiplier``, and so is
    regularized too; c is ``positive_weight`` for positives and 1 for negatives. Newton's method with conjugate gradients
    in float64 on a hinge whose corner is rounded, with decreasing width. Stops when the duality gap, a bound of the
    distance to the minimum, is small.

    Args:
        features: (N, D).
        targets: (N, K): 1 positive, -1 negative, 0 not in the class's problem.
        cost: C; the weight of the errors.
        positive_weight: c of positives.
        bias_multiplier: the larger, the less the bias is regularized.
        start: initial weights (K, D + 1), for example those before some examples were added.
        tolerance: largest duality gap, as a fraction of the sum.

    Returns:
        Weights (K, D + 1), of the features' type: scores are ``features @ w[:, :-1].T + w[:, -1]``.
    """
    units = features.new_ones(features.shape[1] + 1, dtype=torch.double)
    units[-1] = bias_multiplier
    weights = []
    for k in range(targets.shape[1]):
        rows = targets[:, k].nonzero().flatten()
        y = targets[rows, k].double()
        x = torch.cat([features[rows].double(), y.new_full((len(y), 1), bias_multiplier)], 1) * y[:, None]
        most = cost * (1 + (positive_weight - 1) * y.clamp(min=0))
        begin = torch.zeros_like(units) if start is None else start[k].double() / units
        weights.append(_solve(x, most, begin, tolerance) * units)
    return torch.stack(weights).to(features.dtype)


def _solve(x: Tensor, most: Tensor, w: Tensor, tolerance: float) -> Tensor:
    """Find w (D,) that minimizes |w|^2 / 2 + most.max(0, 1 - x w), for x (N, D) multiplied by their signs."""
    lack = 1 - x @ w
    width = min(_WIDTHS, key=lambda width: sum(_gap(x, most, w, lack, width)[:2]))
    for _ in range(_MOST_STEPS):
        unsolved, rounded, gradient = _gap(x, most, w, lack, width)
        total = w.square().sum() / 2 + most @ lack.clamp(min=0)
        if unsolved + rounded <= tolerance * total + 1e-12:
            break
        if unsolved <= rounded / 10:
            width /= 8
            continue
        inside = lack.abs() < width / 2
        direction = _conjugate_gradients(x[inside], most[inside] / width, -gradient)
        w = w + _length(x, most, w, lack, width, direction) * direction
        lack = 1 - x @ w
    return w


def _gap(x: Tensor, most: Tensor, w: Tensor, lack: Tensor, width: float) -> tuple[float, float, Tensor]:
    """Compute the duality gap at w and its dual variables, in two parts, and the gradient (D,) of the rounded sum.

    The first part is what a Newton step can remove, the second the error of the rounded corner.
    """
    dual = most * (lack / width + 0.5).clamp(0, 1)
    gradient = w - x.T @ dual
    parts = torch.stack([gradient.square().sum() / 2, most @ lack.clamp(min=0) - dual @ lack])
    unsolved, rounded = parts.tolist()
    return unsolved, rounded, gradient


def _conjugate_gradients(x: Tensor, scale: Tensor, right: Tensor, accuracy: float = 0.05) -> Tensor:
    """Compute (I + x^T diag(scale) x)^-1 right, to a residual of ``accuracy`` times the right side's norm."""
    solution, residual, direction = torch.zeros_like(right), right.clone(), right.clone()
    norm = residual.square().sum()
    goal = accuracy**2 * norm
    for _ in range(len(right)):
        product = direction + x.T @ (scale * (x @ direction))
        size = norm / (direction @ product)
        solution, residual = solution + size * direction, residual - size * product
        before, norm = norm, residual.square().sum()
        if norm <= goal:
            break
        direction = residual + norm / before * direction
    return solution


def _length(x: Tensor, most: Tensor, w: Tensor, lack: Tensor, width: float, direction: Tensor) -> Tensor:
    """Search the step length in [0, 1] that minimizes the rounded sum, a convex function of it, by bisecting its slope."""
    change, below, above = x @ direction, w.new_zeros(()), w.new_ones(())
    slope_w, slope_direction = w @ direction, direction @ direction
    for power in range(24):
        middle = (below + above) / 2 if power else above
        dual = most * ((lack - middle * change) / width + 0.5).clamp(0, 1)
        rising = slope_w + middle * slope_direction > dual @ change
        below, above = torch.where(rising, below, middle), torch.where(rising, middle, above)
    return below


def ridge(features: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Solve a ridge regression: w that minimizes |features w - targets|^2 + penalty |w|^2, exactly, in float64.

    Solved for w if there are at least as many examples as features, else for the dual variables, with the same result.

    Args:
        features: (N, D).
        targets: (N, M).
        penalty: above 0.

    Returns:
        w (D, M), of the features' type.
    """
    x, y = features.double(), targets.double()
    primal = len(x) >= x.shape[1]
    gram = x.T @ x if primal else x @ x.T
    gram.diagonal().add_(penalty)
    factor = torch.linalg.cholesky(gram)
    solved = torch.cholesky_solve(x.T @ y, factor) if primal else x.T @ torch.cholesky_solve(y, factor)
    return solved.to(features.dtype)
