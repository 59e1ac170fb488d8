"""Sides of images as integers that may be symbolic, as in a traced graph of images of any size."""

from typing import Any

import torch
from torch.compiler import is_exporting


def ceil_div(number: Any, divisor: int) -> int:
    """Divide integers, which may be symbolic, and round up; ``-(-a // b)`` is wrong in ONNX, which rounds to zero."""
    return (number + divisor - 1) // divisor


def at_least(number: int, least: int) -> int:
    """Return the larger of two integers, which may be symbolic: ``max`` would fix the answer for all images."""
    larger: Any = torch.sym_max(number, least)
    return larger


def as_one_symbol(number: Any, least: int) -> int:
    """Return a number of at least ``least``; if it is symbolic, as ``least`` and a new symbol.

    Tracing simplifies sides after poolings if they are multiples of a symbol, and not if that is a rounded quotient. With
    ``least`` apart, it sees that differences of sides are positive.
    """
    if not is_exporting() or isinstance(number, int):
        return number
    symbol: Any = torch.full((), number - least).item()
    torch._check(symbol >= 0)
    return symbol + least
