"""Models of any size without memory for their weights: parameters on the meta device, then as fake or zero tensors."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def weights_on_meta() -> Iterator[None]:
    """Context in which new modules register their parameters on the meta device; buffers keep their values.

    Each parameter is allocated and released again, so that a model takes the memory of its largest parameter at most.
    """
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    # Torch has a hook for registered parameters, but it keeps the module's reference to the original.
    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*from a non-meta parameter in the checkpoint to a meta parameter.*")
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def fill_weights(module: nn.Module, zeros: Callable[..., Tensor] = torch.zeros) -> None:
    """Replace the parameters of a module, and buffers on the meta device, by zeros of the same layout.

    Shared tensors stay shared. Other buffers keep their values.

    Args:
        module: whose weights are not needed.
        zeros: called with a number of elements and ``dtype``.
    """
    filled: dict[int, tuple[Tensor, Tensor]] = {}  # original, so that its id stays its own, and replacement

    def fill(tensor: Tensor) -> Tensor:
        if id(tensor) not in filled:
            new = zeros(tensor.numel(), dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())
            parameter = isinstance(tensor, nn.Parameter)
            new = nn.Parameter(new, requires_grad=tensor.requires_grad) if parameter else new
            filled[id(tensor)] = tensor, new
        return filled[id(tensor)][1]

    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(part, name, fill(weight))
        for name, buffer in list(part.named_buffers(recurse=False, remove_duplicate=False)):
            if buffer.device.type == "meta":
                setattr(part, name, fill(buffer))
