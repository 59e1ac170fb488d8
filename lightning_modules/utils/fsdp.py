"""FSDP: weights, gradients, averages and optimizer states sharded among ranks, for models too large for one device."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal, NoReturn

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from darkroom.errors import UsageError
from darkroom.runtime.lightning_compat import trainer_of


class Sharded(ModelParallelStrategy):
    """FSDP with the checkpoints of any other run: one file of full tensors, for one process or any number of ranks.

    Every rank stores its shard of all weights, gradients, averages and optimizer states, and gathers the others' when a
    layer needs them.

    Args:
        process_group_backend: None: nccl for GPUs, gloo for CPUs.
    """

    def __init__(self, process_group_backend: Literal["nccl", "gloo"] | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Return True: Lightning calls ``load_optimizer_state_dict``."""
        return True

    def setup_environment(self) -> None:
        """Shard over all processes of all nodes."""
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's "auto" counts the nodes alone
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the module's weights as full tensors."""
        return self._full(self._module.state_dict())

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather an optimizer's state as full tensors."""
        state = optimizer.state_dict()
        return {**state, "state": {index: self._full(values) for index, values in state["state"].items()}}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint file on the CPU, memory-mapped."""
        # Memory-mapped: ranks of a machine share the file's memory, and each reads its shard alone.
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load full weights; each rank copies its shard."""
        module = self._module
        state, ours = checkpoint["state_dict"], module.state_dict()
        module.load_state_dict({name: _shard_of(value, ours.get(name)) for name, value in state.items()}, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load full optimizer states; each rank copies its shard."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            indices = chain.from_iterable(group["params"] for group in state["param_groups"])
            parts = {
                index: {name: _shard_of(value, parameter) for name, value in state["state"].get(index, {}).items()}
                for index, parameter in zip(indices, parameters, strict=True)
            }
            optimizer.load_state_dict({**state, "state": parts})

    def _full(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Gather the full tensors of sharded ones, on all ranks at once; return {} on all but the first rank."""
        full = {}
        for name, value in values.items():
            if isinstance(value, DTensor):
                value = value.full_tensor()  # one at a time, to fit into memory
            if self.is_global_zero:
                full[name] = value.cpu() if isinstance(value, Tensor) else value
        return full


def _shard_of(value: Any, like: Tensor | None) -> Any:
    """Return this rank's shard of a full tensor if ``like``, of the same shape, is sharded, else the tensor."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        full = value.to(like.device).contiguous()  # shards are contiguous
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
    return value


def mesh_of(module: LightningModule) -> DeviceMesh | None:
    """Return the ranks among which a module's weights are sharded; None: every rank has all weights.

    Raises:
        UsageError: the strategy is another kind of sharding.
    """
    trainer = trainer_of(module)
    strategy = None if trainer is None else trainer.strategy
    if isinstance(strategy, Sharded):
        return strategy.device_mesh["data_parallel"]
    if isinstance(strategy, ModelParallelStrategy | FSDPStrategy):
        raise UsageError(
            f"trainer.strategy must be Sharded, got {type(strategy).__name__}, whose checkpoints differ; use "
            "--config configs/trainer/fsdp.yaml"
        )
    return None


def shard_module(module: LightningModule, parts: Callable[[], list[nn.Module]], compiled: bool) -> None:
    """Shard parts of a module among ranks, if the strategy of its Trainer does that.

    Args:
        module: in ``configure_model``.
        parts: returns those that are sharded, see ``shard``.
        compiled: the module's networks are compiled.

    Raises:
        UsageError: they are compiled, or the strategy is another kind of sharding.
    """
    mesh = mesh_of(module)
    if mesh is None:
        return
    if compiled:
        raise UsageError("model.optim.compile must be false where weights are sharded among GPUs")
    for part in parts():
        shard(part, mesh, bfloat16=module.trainer.precision == "bf16-mixed")


@torch.no_grad()
def shard(module: nn.Module, mesh: DeviceMesh, bfloat16: bool = False) -> None:
    """Shard a module's weights among ranks, layer by layer: a layer is full only while it computes.

    All ranks start with the weights of the first. A module that is sharded already is left unchanged.

    Args:
        module: called by ``forward`` alone. The elements of its ModuleLists are its layers.
        mesh: the ranks.
        bfloat16: gather float32 weights in bfloat16, for bf16-mixed; gradients are always reduced in float32.
    """
    if isinstance(module, FSDPModule):
        return
    for tensor in chain(module.parameters(), module.buffers()):
        first = tensor.to(mesh.device_type)
        distributed.broadcast(first, 0)
        tensor.copy_(first)
    module.to(memory_format=torch.contiguous_format)  # other layouts cannot be sharded
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    layers = [layer for part in lists for layer in part if not isinstance(layer, nn.ModuleList)]
    # Inputs are not cast: time steps are too large for bfloat16.
    policy = MixedPrecisionPolicy(torch.bfloat16 if bfloat16 else None, torch.float32, cast_forward_inputs=False)
    for layer in [*layers, module]:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=policy)


@torch.inference_mode(False)  # weights built in inference mode cannot be trained
def gather(modules: Iterable[nn.Module]) -> None:
    """Gather sharded modules on every rank until ``release``, so that ranks may call them different numbers of times."""
    for part in _sharded_parts(modules):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release(modules: Iterable[nn.Module]) -> None:
    """Shard gathered modules again."""
    for part in _sharded_parts(modules):
        part.set_reshard_after_forward(True, recurse=False)
        part.reshard()


def _sharded_parts(modules: Iterable[nn.Module]) -> Iterator[FSDPModule]:
    for module in modules:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                yield part


def to_local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor, for in-place work without gradients."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def refuse_sharding(module: LightningModule) -> NoReturn:
    """Raise a UsageError for a method whose networks cannot be sharded."""
    raise UsageError(
        f"{type(module).__name__} cannot be sharded among GPUs; use configs/trainer/ddp.yaml instead of fsdp.yaml"
    )


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module's weights are sharded among ranks."""
    return isinstance(module, FSDPModule)
