"""Counters of a training step's operations: FLOPs, bytes read and written, kernels, and the bytes that live at once."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Work:
    """Work of a training step.

    Args:
        convolution_flops: of convolutions, forward and backward; a multiplication and an addition are two.
        matmul_flops: of matrix products and attention.
        traffic: bytes that all other operations read and write, each tensor once per operation.
        kernels: number of operations that compute, views left out.
    """

    convolution_flops: float = 0.0
    matmul_flops: float = 0.0
    traffic: float = 0.0
    kernels: float = 0.0

    @property
    def flops(self) -> float:
        """FLOPs of convolutions, matrix products and attention."""
        return self.convolution_flops + self.matmul_flops

    def __sub__(self, other: "Work") -> "Work":
        return Work(*(mine - its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    def scaled(self, factor: float) -> "Work":
        """Return the work times a factor, such as a number of images."""
        return Work(*(factor * value for value in vars(self).values()))


class StepTrace(TorchDispatchMode):
    """Mode that counts the work of operations and the bytes of tensors that live at once, in fake or real tensors.

    Args:
        fake: tensors are fake and have no values. A value that Python reads is 0, 1.0 or False then, and a mask selects
            nothing: checks of a batch pass, random offsets are 0, and step counters of optimizers 1.

    Attributes:
        work: since the start.
        live: bytes of the storages that live now.
        peak: greatest number of live bytes since ``reset_peak``.
    """

    def __init__(self, fake: bool = False) -> None:
        super().__init__()
        self.fake = fake
        self.work, self.live, self.peak = Work(), 0, 0
        self._storages: weakref.WeakSet = weakref.WeakSet()

    def add(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that live before the step; return the bytes that they add."""
        before = self.live
        for tensor in tensors:
            self._track(tensor)
        return self.live - before

    def reset_peak(self) -> None:
        """Set the peak to the bytes that live now."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = _without_values(func, args) if self.fake else None
        out = func(*args, **kwargs) if out is None else out
        if func.namespace == "prim" or func.is_view or "detach" in func.name():
            return out
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in outputs:
            self._track(tensor)
        flops = flop_registry.get(func.overloadpacket)
        if flops is not None:
            count = float(flops(*args, **kwargs, out_val=out))
            convolution = "conv" in func.name()
            added = Work(count if convolution else 0.0, 0.0 if convolution else count, 0.0, 1.0)
        else:
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            added = Work(traffic=float(sum(map(_bytes, inputs + outputs))), kernels=1.0)
        self.work = Work(*(a + b for a, b in zip(vars(self.work).values(), vars(added).values(), strict=True)))
        return out

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._storages:
            size = storage.nbytes()
            self._storages.add(storage)
            weakref.finalize(storage, self._forget, size).atexit = False
            self.live += size
            self.peak = max(self.peak, self.live)

    def _forget(self, size: int) -> None:
        self.live -= size


def _without_values(func: Any, args: tuple[Any, ...]) -> Any:
    """Return the result of an operation that depends on values, for a tensor without values; None for other operations."""
    if func.name() == "aten::_local_scalar_dense":
        if args[0].is_floating_point():
            return 1.0
        return False if args[0].dtype == torch.bool else 0
    if func.name() == "aten::nonzero":
        return args[0].new_empty((0, args[0].dim()), dtype=torch.int64)
    if func.name() == "aten::index.Tensor" and any(
        index is not None and index.dtype == torch.bool for index in args[1]
    ):
        return func(args[0], [chosen for index in args[1] for chosen in _none_of(index)])
    return None


def _none_of(index: Tensor | None) -> list[Tensor | None]:
    """Return an index; for a mask, one that selects nothing along each of its axes."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [index.new_empty(0, dtype=torch.int64) for _ in range(index.dim())]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class WithoutProducts(TorchDispatchMode):
    """Mode in which convolutions, matrix products and attention return zeros of the right shapes and are not computed.

    Everything else is computed, so methods whose shapes depend on values (boxes) run their step on real tensors.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:
            return func(*args, **kwargs)
        meta: Callable[[Tensor], Tensor] = lambda tensor: tensor.to("meta")  # noqa: E731
        args, kwargs = tree_map_only(Tensor, meta, (args, kwargs))
        out = func(*args, **kwargs)
        return tree_map_only(Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"), out)
