"""Gradients of a learner's result, compared with those of the right one: a loss must not only have the right value."""

import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from darkroom.course.difference import describe_difference
from darkroom.course.exercise import Exercise, Function, Inputs, copy_inputs

Gradients: TypeAlias = Mapping[str, Tensor]  # by the input's name; those of a network's weights in one vector


def compute_gradients(exercise: Exercise, function: Function, inputs: Inputs) -> Gradients | None:
    """Return the gradients of the sum of a function's result, or None if the result has none.

    Args:
        exercise: names the inputs whose gradients are returned, tensors or networks.
        function: of the learner, or the reference.
        inputs: arguments; they are not changed.
    """
    arguments = copy_inputs(inputs)
    leaves = {name: _leaves(arguments[name]) for name in exercise.differentiable}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises detach() to a loss that calls float(); we advise the opposite
        result = function(*arguments.values())
    if not isinstance(result, Tensor) or not result.requires_grad:
        return None
    every = [leaf for several in leaves.values() for leaf in several]
    gradients = iter(torch.autograd.grad(result.sum(), every, materialize_grads=True))
    return {
        name: torch.cat([next(gradients).flatten() for _ in several])
        if isinstance(arguments[name], nn.Module)
        else next(gradients)
        for name, several in leaves.items()
    }


def describe_gradients(found: Gradients | None, right: Gradients, tolerance: float) -> str | None:
    """Return a sentence on how gradients differ from the right ones, or None if they are equal.

    Args:
        found: of the learner's result, which has the right value.
        right: of the reference.
        tolerance: see ``Exercise``.
    """
    if found is None:
        return (
            f"the value is right, but it has no gradient with respect to {', '.join(map(repr, right))}: training would "
            "change nothing; item(), float(), detach() and torch.no_grad() cut the graph"
        )
    for name, expected in right.items():
        if difference := describe_difference(found[name], expected, tolerance):
            return f"the value is right, but its gradient with respect to {name!r} is not: there {difference}"
    return None


def _leaves(value: Any) -> list[Tensor]:
    return list(value.parameters()) if isinstance(value, nn.Module) else [value.requires_grad_()]
