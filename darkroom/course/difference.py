"""Difference of a learner's result and the right one, as a sentence."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def describe_difference(result: Any, right: Any, tolerance: float) -> str | None:
    """Return a sentence on how a result differs from the right one, or None if they are equal.

    Args:
        result: of the learner's function.
        right: of the reference: a tensor, a number, a bool, or a tuple of these.
        tolerance: see ``Exercise``.
    """
    if isinstance(right, tuple):
        return _describe_tuple(result, right, tolerance)
    if isinstance(result, tuple | dict | str):
        return f"the result is a {type(result).__name__}, must be {_kind(right)}"
    try:
        values, expected = torch.as_tensor(result), torch.as_tensor(right)
    except (TypeError, ValueError, RuntimeError):
        return f"the result is a {type(result).__name__}, must be {_kind(right)}"
    return _describe_tensor(values.detach(), expected.detach(), tolerance)


def _kind(right: Any) -> str:
    return f"a tensor of shape {tuple(right.shape)}" if isinstance(right, Tensor) else f"a {type(right).__name__}"


def _describe_tuple(result: Any, right: tuple, tolerance: float) -> str | None:
    if not isinstance(result, tuple | list):
        return f"the result is a {type(result).__name__}, must be a tuple of {len(right)} values"
    if len(result) != len(right):
        return f"the result has {len(result)} values, must have {len(right)}"
    for index, (one, expected) in enumerate(zip(result, right, strict=True), 1):
        if found := describe_difference(one, expected, tolerance):
            return f"value {index} of {len(right)}: {found}"
    return None


def _describe_tensor(values: Tensor, right: Tensor, tolerance: float) -> str | None:
    if values.shape != right.shape:
        return _describe_shape(values.shape, right.shape)
    if (values.dtype == torch.bool) != (right.dtype == torch.bool):
        return f"the result has type {values.dtype}, must have {right.dtype}"
    if right.numel() == 0:
        return None
    values, right = values.double(), right.double()
    if not values.isfinite().all() and right.isfinite().all():
        return f"the result is not finite{_place(~values.isfinite())}; a division by 0 or the logarithm of 0 does this"
    if _close(values, right, tolerance).all():
        return None
    return _describe_values(values, right, tolerance)


def _describe_shape(shape: Sequence[int], right: Sequence[int]) -> str:
    text = f"the result has shape {tuple(shape)}, must have {tuple(right)}"
    if sorted(shape) == sorted(right):
        return f"{text}: the dimensions are in another order"
    if [side for side in shape if side != 1] == [side for side in right if side != 1]:
        return f"{text}: they differ in dimensions of size 1"
    if len(shape) < len(right):
        return f"{text}: a sum or mean has removed a dimension, or one was not made"
    if len(shape) > len(right):
        return f"{text}: a dimension was not reduced"
    return text


def _describe_values(values: Tensor, right: Tensor, tolerance: float) -> str:
    """Describe finite values of the right shape, at least one of which is wrong."""
    wrong = ~_close(values, right, tolerance)
    if _close(values, -right, tolerance).all():
        return "the result has the wrong sign" + (" everywhere" if right.numel() > 1 else "")
    if _close(values.abs(), right.abs(), tolerance).all():
        return f"some values have the wrong sign, the first{_place(wrong)}"
    if right.numel() > 1:
        ratio = values[right != 0] / right[right != 0]
        if len(ratio) > 1 and _close(values, right * ratio.median(), tolerance).all():
            return f"every value is {ratio.median():.4g} times the right one: a constant factor"
        shift = (values - right).median()
        if _close(values - shift, right, tolerance).all():
            return f"every value is too {'large' if shift > 0 else 'small'} by {abs(shift):.4g}"
        if order := _describe_order(values, right, tolerance):
            return order
    first = tuple(wrong.nonzero()[0].tolist())
    amount = float(values[first] - right[first])
    size = "large" if amount > 0 else "small"
    count = f"; {int(wrong.sum())} of {wrong.numel()} values are wrong" if wrong.numel() > 1 else ""
    return f"the result is {values[first]:.5g}{_place(wrong)}, too {size} by {abs(amount):.4g}{count}"


def _describe_order(values: Tensor, right: Tensor, tolerance: float) -> str | None:
    """Describe values that are right but at other places."""
    for axis, size in enumerate(right.shape):
        if size > 2 and _close(values.narrow(axis, 1, size - 1), right.narrow(axis, 0, size - 1), tolerance).all():
            return f"along dimension {axis} each value stands one place too late: off by one"
        if size > 2 and _close(values.narrow(axis, 0, size - 1), right.narrow(axis, 1, size - 1), tolerance).all():
            return f"along dimension {axis} each value stands one place too early: off by one"
        if size > 1 and _close(values.flip(axis), right, tolerance).all():
            return f"along dimension {axis} the values are in reverse order"
    if right.dim() == 2 and right.shape[0] == right.shape[1] and _close(values.T, right, tolerance).all():
        return "rows and columns are exchanged"
    if _close(values.flatten().sort().values, right.flatten().sort().values, tolerance).all():
        return f"the values are right but in another order, first{_place(~_close(values, right, tolerance))}"
    return None


def _close(values: Tensor, right: Tensor, tolerance: float) -> Tensor:
    scale = max(1.0, float(right[right.isfinite()].abs().max())) if right.isfinite().any() else 1.0
    return torch.isclose(values, right, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def _place(where: Tensor) -> str:
    """Return the first place of a mask in words; empty for a single number."""
    return f" at {where.nonzero()[0].tolist()}" if where.dim() else ""
