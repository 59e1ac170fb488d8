"""Outputs of compiled networks that are CUDA graphs."""

from collections.abc import Callable
from typing import Any

import torch
from lightning_utilities import apply_to_collection
from torch import Tensor, nn


def copy_outputs(network: nn.Module) -> None:
    """Make the compiled modules of a network, which may be the network itself, return copies of their outputs.

    Outside of training, a graph may write over the outputs of all graphs that ran before it. In training it keeps what the
    backward pass needs, so nothing is copied.
    """
    for module in network.modules():
        if module._compiled_call_impl is not None:
            module._compiled_call_impl = _copied(module._compiled_call_impl)


def _copied(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        outputs = compiled(*arguments, **named)
        return outputs if torch.is_grad_enabled() else apply_to_collection(outputs, Tensor, Tensor.clone)

    return call
