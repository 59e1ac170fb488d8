"""Sharding: weights, gradients, averages and the optimizer's states divided among ranks (FSDP), for what is too large."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from darkroom.errors import UsageError


class Sharded(ModelParallelStrategy):
    """FSDP: every rank keeps its part of all weights, gradients, averages and states of the optimizer, and is sent the
    others' when a layer needs them. Its checkpoints are those of any other run: one file of whole tensors, that one process
    can load, and any number of ranks.

    Args:
        process_group_backend: None: nccl for GPUs, gloo for CPUs.
    """

    def __init__(self, process_group_backend: Literal["nccl", "gloo"] | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's "auto" are the nodes alone
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self._whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state = optimizer.state_dict()
        return {**state, "state": {index: self._whole(values) for index, values in state["state"].items()}}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        # Mapped, not read: ranks of a machine share the file's memory, and each takes its part of it alone.
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module = self.lightning_module
        state, ours = checkpoint["state_dict"], module.state_dict()
        module.load_state_dict({name: _part(value, ours.get(name)) for name, value in state.items()}, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            indices = chain.from_iterable(group["params"] for group in state["param_groups"])
            parts = {
                index: {name: _part(value, parameter) for name, value in state["state"].get(index, {}).items()}
                for index, parameter in zip(indices, parameters, strict=True)
            }
            optimizer.load_state_dict({**state, "state": parts})

    def _whole(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values with the tensors put together that are divided, on all ranks at once; {} on all but the first."""
        whole = {}
        for name, value in values.items():
            if isinstance(value, DTensor):
                value = value.full_tensor()  # one by one: all at once would not fit
            if self.is_global_zero:
                whole[name] = value.cpu() if isinstance(value, Tensor) else value
        return whole


def _part(value: Any, like: Tensor | None) -> Any:
    """This rank's part of a whole tensor, where ``like``, of the same shape, is divided."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        whole = value.to(like.device).contiguous()  # as the parts lie in memory
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return value


def mesh_of(module: LightningModule) -> DeviceMesh | None:
    """The ranks that a module's weights are to be divided among; None: each is to have all of them.

    Raises:
        UsageError: a strategy that divides them in another way.
    """
    strategy = None if module._trainer is None else module.trainer.strategy
    if isinstance(strategy, Sharded):
        return strategy.device_mesh["data_parallel"]
    if isinstance(strategy, ModelParallelStrategy | FSDPStrategy):
        raise UsageError(
            f"trainer.strategy is {type(strategy).__name__}, whose checkpoints and averages are none of ours; use "
            "--config configs/trainer/fsdp.yaml"
        )
    return None


@torch.no_grad()
def shard(module: nn.Module, mesh: DeviceMesh, bfloat16: bool = False) -> None:
    """Divides a module's weights among ranks, layer by layer: each is whole only while it computes. All begin as the first
    rank's. What is divided already stays as it is.

    Args:
        module: called by ``forward`` alone. Layers are what its lists hold.
        mesh: the ranks.
        bfloat16: send float32 weights rounded, to be used where they would be rounded anyway; gradients are always added up
            in float32.
    """
    if isinstance(module, FSDPModule):
        return
    for tensor in chain(module.parameters(), module.buffers()):
        first = tensor.to(mesh.device_type)
        distributed.broadcast(first, 0)
        tensor.copy_(first)
    module.to(memory_format=torch.contiguous_format)  # any other cannot be divided
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    layers = [layer for part in lists for layer in part if not isinstance(layer, nn.ModuleList)]
    # What comes in is never cast: times are, in steps, too large for bfloat16.
    policy = MixedPrecisionPolicy(torch.bfloat16 if bfloat16 else None, torch.float32, cast_forward_inputs=False)
    for layer in [*layers, module]:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=policy)


@torch.inference_mode(False)  # in which weights would be made that cannot be trained
def gather(modules: Iterable[nn.Module]) -> None:
    """Makes divided modules whole on every rank, until ``release``: so each may call them as often as it likes."""
    _each(modules, lambda part: (part.set_reshard_after_forward(False, recurse=False), part.unshard()))


def release(modules: Iterable[nn.Module]) -> None:
    """Divides again what was gathered."""
    _each(modules, lambda part: (part.set_reshard_after_forward(True, recurse=False), part.reshard()))


def _each(modules: Iterable[nn.Module], do: Callable[[FSDPModule], Any]) -> None:
    for module in modules:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                do(part)


def local(tensor: Tensor) -> Tensor:
    """What lies on this rank of a tensor, for in-place work without gradients."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module's weights are sharded among ranks."""
    return isinstance(module, FSDPModule)
