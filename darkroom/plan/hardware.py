"""Table of GPUs from the data sheets of their maker, and the measured rates of this machine's CPU."""

import statistics
import time
from dataclasses import dataclass

import torch

GB = 10**9
CPU_LAUNCH = 12e-6  # seconds of an operation on a CPU beside its work, fitted by python -m benchmarks plan_check


@dataclass(frozen=True)
class Hardware:
    """Rates of a device; dense ones, without structured sparsity, which data sheets state at twice the value.

    Args:
        name: of the device.
        memory: bytes.
        bf16, tf32, fp32: peak FLOP/s of matrix products in bfloat16 (float16 on older GPUs) with float32
            sums, of convolutions in float32, which use TF32 by default where the GPU has it, and of products in float32.
        bandwidth: bytes per second of its memory.
        link: bytes per second that one device sends to others of its node.
        network: bytes per second that one device sends to other nodes.
        per_node: devices of a node.
        launch: seconds that the CPU takes to start one operation.
        parallel: the device computes while the CPU starts further operations.
        bfloat16: matrix products in bfloat16 reach the peak ``bf16``; False: float16 does.
    """

    name: str
    memory: float
    bf16: float
    tf32: float
    fp32: float
    bandwidth: float
    link: float
    network: float
    per_node: int = 8
    launch: float = 10e-6
    parallel: bool = True
    bfloat16: bool = True

    def products(self, precision: str) -> tuple[float, float]:
        """Return the peak FLOP/s of convolutions and of matrix products in a precision of the Trainer."""
        if precision.startswith(("bf16", "16")):
            return self.bf16, self.bf16
        return self.tf32, self.fp32


def _gpu(
    name: str,
    memory: float,
    tera: tuple[float, float, float],
    gigabytes: tuple[float, float, float],
    bfloat16: bool = True,
) -> Hardware:
    """Return a GPU from the units of data sheets: GB, TFLOP/s of bf16, tf32, fp32, GB/s of memory, link, network."""
    bf16, tf32, fp32 = (1e12 * value for value in tera)
    bandwidth, link, network = (GB * value for value in gigabytes)
    return Hardware(name, GB * memory, bf16, tf32, fp32, bandwidth, link, network, bfloat16=bfloat16)


# Links: NVLink's data sheet value counts both directions; half of it is sent. Network: one 400 Gbit/s adapter per GPU in a
# DGX H100 or H200, 200 Gbit/s in a DGX A100 (NVIDIA, DGX data sheets), 100 Gbit/s per GPU in a DGX-1 with V100 is 12.5 GB/s
# for two GPUs; for GPUs of other servers 100 Gbit/s per node of eight GPUs are assumed.
_GPUS = (
    # NVIDIA H200 data sheet (2024), SXM: 141 GB, 4.8 TB/s, 1,979 TFLOP/s bf16 and 989 tf32 with sparsity, 67 fp32.
    _gpu("h200", 141, (989, 494.5, 67), (4800, 450, 50)),
    # NVIDIA H100 data sheet (2023), SXM5: 80 GB, 3.35 TB/s, the same rates; NVLink 900 GB/s.
    _gpu("h100", 80, (989, 494.5, 67), (3350, 450, 50)),
    # NVIDIA A100 data sheet (2021), SXM4: 312 TFLOP/s bf16, 156 tf32, 19.5 fp32, dense; NVLink 600 GB/s.
    _gpu("a100-80", 80, (312, 156, 19.5), (2039, 300, 25)),
    _gpu("a100-40", 40, (312, 156, 19.5), (1555, 300, 25)),
    # NVIDIA V100 data sheet (2020), SXM2 32 GB: 125 TFLOP/s float16, 15.7 fp32, no tf32 and no bfloat16; NVLink 300 GB/s.
    _gpu("v100", 32, (125, 15.7, 15.7), (900, 150, 6.25), bfloat16=False),
    # NVIDIA L40S data sheet (2023): 733 TFLOP/s bf16 and 366 tf32 with sparsity, 91.6 fp32; PCIe 4.0 x16.
    _gpu("l40s", 48, (366, 183, 91.6), (864, 32, 1.56)),
    # NVIDIA L4 data sheet (2023): 242 TFLOP/s bf16 and 120 tf32 with sparsity, 30.3 fp32; PCIe 4.0 x16.
    _gpu("l4", 24, (121, 60, 30.3), (300, 32, 1.56)),
    # NVIDIA Ada architecture white paper (2022), RTX 4090: 165.2 TFLOP/s bf16 with float32 sums, 82.6 tf32 and fp32.
    _gpu("rtx4090", 24, (165.2, 82.6, 82.6), (1008, 32, 1.56)),
    # NVIDIA T4 data sheet (2019): 65 TFLOP/s float16, 8.1 fp32, no tf32 and no bfloat16; PCIe 3.0 x16.
    _gpu("t4", 16, (65, 8.1, 8.1), (320, 16, 1.56), bfloat16=False),
)
GPUS: dict[str, Hardware] = {gpu.name: gpu for gpu in _GPUS}


def _fastest(seconds_of: list[float]) -> float:
    return statistics.median(sorted(seconds_of)[:3])


def _time(function: object, *args: torch.Tensor) -> float:
    assert callable(function)
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def measure_cpu(threads: int | None = None) -> Hardware:
    """Measure this machine: a matrix product of 1,024 x 1,024, and the sum of two arrays of 64 MiB.

    The clock is that of the process, which other processes do not change, divided by the number of threads.

    Args:
        threads: of torch; None: those it has.
    """
    count = threads or torch.get_num_threads()
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
        rates[dtype] = 2 * 1024**3 * count / _fastest([_time(torch.mm, a, b) for _ in range(7)])
    x, y = (torch.ones(2**24) for _ in range(2))
    out = torch.empty_like(x)
    seconds = _fastest([_time(lambda a, b: torch.add(a, b, out=out), x, y) for _ in range(7)])
    single, half = rates[torch.float32], rates[torch.bfloat16]
    return Hardware(
        name="cpu",
        memory=_memory(),
        bf16=half,
        tf32=single,
        fp32=single,
        bandwidth=3 * x.numel() * 4 * count / seconds,
        link=1.25 * GB,  # 10 Gbit/s
        network=1.25 * GB,
        per_node=1,
        launch=CPU_LAUNCH,
        parallel=False,
    )


def _memory() -> float:
    """Return the bytes of this machine's memory; infinite without /proc/meminfo."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return 1024.0 * int(file.readline().split()[1])
    except OSError:
        return float("inf")
