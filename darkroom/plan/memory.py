"""Memory of one GPU of a training: what each kind of tensor takes under DDP and FSDP."""

from dataclasses import dataclass
from typing import Literal

from darkroom.plan.counting.profile import StepProfile
from darkroom.plan.sharding import Sharding

Strategy = Literal["ddp", "fsdp"]
# CUDA context, and workspaces of cuDNN and cuBLAS; then fragments of the caching allocator, a fraction of the activations.
RESERVED, FRAGMENTS = 1.0e9, 0.05


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a training step.

    Args:
        weights: and buffers.
        gradients, optimizer, ema, activations: see ``StepProfile``.
        communication: buckets of DDP, as large as the gradients; or the layers that FSDP gathers, and their gradients.
        reserved: CUDA context, workspaces, fragments of the allocator.
    """

    weights: float
    gradients: float
    optimizer: float
    ema: float
    activations: float
    communication: float
    reserved: float

    @property
    def total(self) -> float:
        """Sum of all kinds."""
        return sum(vars(self).values())


def memory_of(
    profile: StepProfile, ranks: int, strategy: Strategy, sharding: Sharding | None, precision: str, on_gpu: bool = True
) -> Memory:
    """Compute the memory of one GPU.

    FSDP divides weights, gradients, optimizer states and EMA of the sharded modules among the ranks, along the first axis
    of each parameter. It gathers one layer while it computes and prefetches the next one, both in bfloat16 with bf16-mixed,
    and has the gradients of one layer in full.

    Args:
        profile: of the step.
        ranks: number of GPUs.
        strategy: ddp or fsdp; without effect on one GPU.
        sharding: layers for fsdp.
        precision: of the Trainer.
        on_gpu: add ``RESERVED`` and ``FRAGMENTS``.
    """
    share, communication = 1.0, 0.0
    if ranks > 1 and strategy == "ddp":
        communication = float(profile.gradients)
    elif ranks > 1 and sharding is not None:
        share = sharding.of_rank(ranks) / max(1, sharding.parameters)
        gathered = 2 if precision.startswith("bf16") else 4
        communication = sharding.largest_unit * (2 * gathered + 4)
    return Memory(
        weights=share * profile.weights + profile.buffers,
        gradients=share * profile.gradients,
        optimizer=share * profile.optimizer,
        ema=share * profile.ema,
        activations=profile.activations,
        communication=communication,
        reserved=RESERVED + FRAGMENTS * profile.activations if on_gpu else 0.0,
    )
