"""Expected time of a training step: products, the other operations, kernel launches and communication."""

from dataclasses import dataclass

from darkroom.plan.counting.profile import StepProfile
from darkroom.plan.hardware import Hardware
from darkroom.plan.memory import Strategy

# Two thirds of a step's products are in the backward pass, where gradients are reduced while earlier layers still compute.
BACKWARD = 2 / 3


@dataclass(frozen=True)
class Assumptions:
    """Fractions of a device's peak rates that a training reaches.

    Args:
        utilization: of the peak FLOP/s in convolutions, matrix products and attention.
        bandwidth: of the memory's bandwidth in all other operations, each of which reads and writes its tensors.
        link: of the bandwidth of links and network.
        overlap: of the backward pass that hides communication.
    """

    utilization: float = 0.45
    bandwidth: float = 0.7
    link: float = 0.8
    overlap: float = 0.8


# Fitted by python -m benchmarks plan_check. Convolutions of oneDNN are faster than the matrix product that is the measure.
ON_CPU = Assumptions(utilization=2.63, bandwidth=0.21)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a training step.

    Args:
        products: of convolutions, matrix products and attention.
        others: of all other operations.
        launches: of the CPU, which starts operations. A GPU computes in the meantime, so the longer of the two counts.
        communication: of all-reduce or gathering, before overlap.
        exposed: part of the communication that computation does not hide.
        parallel: the device computes while the CPU starts operations.
    """

    products: float
    others: float
    launches: float
    communication: float
    exposed: float
    parallel: bool = True

    @property
    def compute(self) -> float:
        """Seconds without communication."""
        work = self.products + self.others
        return max(work, self.launches) if self.parallel else work + self.launches

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.compute + self.exposed


def ring_seconds(sent: float, ranks: int, device: Hardware, efficiency: float) -> float:
    """Return the seconds of a ring all-reduce: each rank sends 2 (n - 1) / n of the bytes over the slowest link.

    Args:
        sent: bytes that are reduced.
        ranks: n.
        device: with its links.
        efficiency: fraction of their bandwidth.
    """
    if ranks == 1:
        return 0.0
    slowest = device.link if ranks <= device.per_node else min(device.link, device.network)
    return 2 * (ranks - 1) / ranks * sent / (efficiency * slowest)


def time_of(
    profile: StepProfile,
    device: Hardware,
    ranks: int,
    strategy: Strategy,
    precision: str,
    assumed: Assumptions,
    micro_batches: int = 1,
) -> StepTime:
    """Compute the time of an optimizer step.

    DDP reduces the gradients, float32, once. FSDP gathers the weights twice, for the forward and the backward pass of every
    micro-batch, and reduces the gradients, of which each is half of an all-reduce.

    Args:
        profile: of one micro-batch.
        device: of each rank.
        ranks: number of devices.
        strategy: ddp or fsdp.
        precision: of the Trainer.
        assumed: fractions of the peak rates.
        micro_batches: of a step (trainer.accumulate_grad_batches).
    """
    convolutions, matmuls = device.products(precision)
    work = profile.work
    products = (work.convolution_flops / convolutions + work.matmul_flops / matmuls) / assumed.utilization
    others = work.traffic / (assumed.bandwidth * device.bandwidth)
    launches = device.launch * work.kernels
    sent = float(profile.gradients)
    if strategy == "fsdp":
        weights = profile.weights / (2 if precision.startswith("bf16") else 1)
        sent = micro_batches * (2 * weights + profile.gradients) / 2
    communication = ring_seconds(sent, ranks, device, assumed.link)
    hidden = (
        assumed.overlap * BACKWARD * max(products + others, launches) * (micro_batches if strategy == "fsdp" else 1)
    )
    return StepTime(
        products=micro_batches * products,
        others=micro_batches * others,
        launches=micro_batches * launches,
        communication=communication,
        exposed=max(0.0, communication - hidden),
        parallel=device.parallel,
    )
