"""Exercise: a function that a learner writes, with the function and the inputs that it is compared with."""

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

Inputs: TypeAlias = Mapping[str, Any]  # arguments by name, in the order of the function's parameters
Function: TypeAlias = Callable[..., Any]


def copy_inputs(inputs: Inputs) -> dict[str, Any]:
    """Return copies of inputs, so that a function that changes them changes those of no other."""
    return {name: copy.deepcopy(value) for name, value in inputs.items()}


@dataclass(frozen=True)
class Mistake:
    """A wrong function that learners often write.

    Args:
        wrong: takes the inputs of the exercise.
        hint: sentence for a learner whose function returns the same values, and the same gradients if the values are
            right. It does not contain the solution.
    """

    wrong: Function
    hint: str


@dataclass(frozen=True)
class Exercise:
    """A function of the learner's file and what it must compute.

    Args:
        name: of the function.
        reference: computes the right values, with the project's own functions or in closed form.
        inputs: returns random inputs, one mapping for each comparison.
        mistakes: known wrong functions; the first one that returns the learner's values is named.
        tolerance: largest difference, as a fraction of the largest value of the result, and at least absolute.
        repair: the learner's file has a broken version.
        differentiable: inputs with respect to which the result must have the gradients of the reference, tensors or
            networks; for a network those of its weights.
    """

    name: str
    reference: Function
    inputs: Callable[[torch.Generator], Sequence[Inputs]]
    mistakes: tuple[Mistake, ...] = ()
    tolerance: float = 1e-4
    repair: bool = False
    differentiable: tuple[str, ...] = ()

    def cases(self, seed: int = 0) -> Sequence[Inputs]:
        """Return the inputs of a seed, equal in every process."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.name} {seed}".encode()))
        return self.inputs(generator)
