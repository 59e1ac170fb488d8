"""How to compare: the sides in turn (A B A B), warmed up, medians, the same work in the same minute."""

import contextlib
import gc
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Options:
    """How the networks run."""

    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    channels_last: bool = False
    rounds: int = 7

    def autocast(self) -> Any:
        return torch.autocast(self.device, getattr(torch, self.dtype), enabled=self.dtype != "float32")

    def place(self, network: torch.nn.Module) -> torch.nn.Module:
        network = network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def images(self, *shape: int) -> torch.Tensor:
        image = torch.randn(*shape, device=self.device)
        return image.contiguous(memory_format=torch.channels_last) if self.channels_last else image


@dataclass
class Side:
    """One of those that are compared: ``step()`` does ``images`` images of work."""

    name: str
    step: Callable[[], Any]
    images: int
    parameters: int = 0
    flops: float = 0.0  # of one step


@dataclass
class Result:
    """Medians of one entry; ``rows`` are (name, ms, images/s, peak MiB, share of the matmul peak or None, ratio)."""

    title: str
    rows: list[tuple[str, float, float, float, float | None, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def side_of(
    name: str, networks: list[torch.nn.Module], step: Callable[[], object], images: int, options: Options
) -> Side:
    """A side whose parameters and operations are counted, and whose networks are compiled if they should be."""
    with FlopCounterMode(display=False) as counter:
        step()
    if options.compile:  # only now: what is compiled cannot be counted
        for network in networks:
            network.compile()
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    return Side(name, step, images, parameters, counter.get_total_flops())


ENTRIES: dict[str, Callable[[Options], Result]] = {}


def entry(function: Callable[[Options], Result]) -> Callable[[Options], Result]:
    """Registers a benchmark under its function's name."""
    ENTRIES[function.__name__] = function
    return function


def synchronize(options: Options) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


def timed(side: Side, options: Options) -> float:
    """Seconds of one step."""
    synchronize(options)
    start = time.perf_counter()
    side.step()
    synchronize(options)
    return time.perf_counter() - start


def peak_memory(side: Side, options: Options) -> float:
    """MiB of tensors at the highest point of one step, beyond what there was before it."""
    gc.collect()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        timed(side, options)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        side.step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes), default=0) / 2**20


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch computes on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matmul_peak(options: Options) -> float:
    """FLOP/s that this machine reaches on a large matrix product of this dtype: the ceiling to compare with."""
    n = 8192 if options.device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=options.device, dtype=getattr(torch, options.dtype)) for _ in range(2))
    product = Side("matmul", lambda: a @ b, 1)
    for _ in range(2):
        timed(product, options)
    return 2 * n**3 / min(timed(product, options) for _ in range(7))


def compare(title: str, sides: list[Side], options: Options, notes: list[str] | None = None) -> Result:
    """Runs the sides interleaved; the ratio is each side's median time over the first one's."""
    for side in sides:
        for _ in range(2):
            timed(side, options)
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            times[side.name].append(timed(side, options))
    peak = matmul_peak(options) if sides[0].flops else None
    result = Result(title, notes=list(notes or []))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for side in sides:
        median = medians[side.name]
        share = side.flops / median / peak if peak and side.flops else None
        ratio = median / medians[sides[0].name]
        memory = peak_memory(side, options)
        result.rows.append((side.name, 1e3 * median, side.images / median, memory, share, ratio))
    if sides[0].flops:
        work = {(side.parameters, round(side.flops / 1e6)) for side in sides}
        listed = ", ".join(f"{s.name}: {s.parameters:,} parameters, {s.flops / 1e9:.1f} GFLOP" for s in sides)
        result.notes.append(("Equal work. " if len(work) == 1 else "Work differs. ") + listed)
    return result


def machine(options: Options) -> str:
    """What the numbers were measured on."""
    import lightning
    import torchvision

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{cpu}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, lightning {lightning.__version__}"
    return f"{device}; {options.dtype}; Python {platform.python_version()}, {versions}"
