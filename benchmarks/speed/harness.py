"""Comparison of sides that do the same work: warm-up, interleaved rounds (A B A B), medians."""

import contextlib
import gc
import itertools
import math
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from darkroom.lightning_modules.base import Technique

Network = TypeVar("Network", bound=torch.nn.Module)
Method = TypeVar("Method", bound=Technique)


@dataclass(frozen=True)
class Options:
    """Options of a run: device, precision, compilation, memory layout, rounds, side."""

    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    channels_last: bool = False
    rounds: int = 7
    side: str | None = None  # measure only this side of a comparison

    def autocast(self) -> torch.autocast:
        """Return the context of mixed precision; it does nothing in float32."""
        return torch.autocast(self.device, getattr(torch, self.dtype), enabled=self.dtype != "float32")

    def place(self, network: Network) -> Network:
        """Move a network to the device, in the memory format."""
        network = network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def images(self, *shape: int) -> torch.Tensor:
        """Return random images on the device, in the memory format."""
        image = torch.randn(*shape, device=self.device)
        return image.contiguous(memory_format=torch.channels_last) if self.channels_last else image


@dataclass
class Side:
    """One side of a comparison: ``step()`` does ``images`` images of work."""

    name: str
    step: Callable[[], Any]
    images: float  # or another unit of work, such as megapixels
    parameters: int = 0
    flops: float = 0.0  # of one step
    loss: float | None = None  # of the first step, where it has one
    eager: bool = False  # although ``options.compile`` is set, since the step calls none of the networks


@dataclass(frozen=True)
class Row:
    """Median of one side.

    Args:
        name: of the side.
        ms: time of a step.
        per_second: images, or another unit of work.
        ratio: time / time of the first side.
        peak_mib: peak memory of tensors; None: not measured.
        of_peak: fraction of the machine's measured peak; None: operations were not counted.
        spread: quartiles of the ratio within rounds; None: of a single round.
        peer: another program whose work can be compared with that of the first side.
        flops: operations of a step; None: not counted.
    """

    name: str
    ms: float
    per_second: float
    ratio: float
    peak_mib: float | None = None
    of_peak: float | None = None
    spread: tuple[float, float] | None = None
    peer: bool = False
    flops: float | None = None


@dataclass
class Result:
    """Medians of one entry."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def both_layouts(channels_last: str, otherwise: str, options: Options) -> dict[str, bool]:
    """Return two names of sides with their ``channels_last``; the second is left out if the options set it too."""
    return {channels_last: True} | ({} if options.channels_last else {otherwise: False})


def without_trainer(method: Method) -> Method:
    """Prepare a method for use without a Trainer: memory layout as in ``setup``, ``training_step`` returns its loss."""
    for network in method.networks():
        network.to(memory_format=method.memory_format)
    method.log_loss = lambda terms: terms["loss"]  # type: ignore[method-assign]  # of this instance, not of its class
    return method


def training_loss(method: Technique, batch: dict[str, Any]) -> torch.Tensor:
    """Return the loss of a training step."""
    loss = method.training_step(batch, 0)
    assert isinstance(loss, torch.Tensor)
    return loss


def side_of(
    name: str, networks: list[torch.nn.Module], step: Callable[[], object], images: int, options: Options
) -> Side:
    """Build a side: count parameters and operations, then compile the networks if ``options.compile`` is set.

    The first step, whose loss is kept, has the same random numbers on every side.
    """
    torch.manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        found = step()
    loss = found.item() if isinstance(found, torch.Tensor) and found.numel() == 1 else None
    eager = options.compile and not _compile(networks, step)  # after counting, which compiled networks do not allow
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    return Side(name, step, images, parameters, counter.get_total_flops(), loss, eager)


class _Compiled:
    """Compiled ``forward`` of a network, for calls of the network and of ``forward`` itself.

    Attributes:
        called: at least once.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.forward, self.called = torch.compile(network.forward), False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.called = True
        return self.forward(*args, **kwargs)


def _compile(networks: list[torch.nn.Module], step: Callable[[], object]) -> bool:
    """Compile the networks in place; return whether a step calls any of them."""
    compiled = [_Compiled(network) for network in networks]
    for network, forward in zip(networks, compiled, strict=True):
        network.forward = forward
    step()
    return any(forward.called for forward in compiled)


def without_gradients(call: Callable[[], object], options: Options) -> Callable[[], None]:
    """Return a step that calls without gradients, in the precision of the options."""

    def step() -> None:
        with torch.inference_mode(), options.autocast():
            call()

    return step


def descend(
    optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor], options: Options
) -> Callable[[], torch.Tensor]:
    """Return a training step, which returns its loss: loss in the precision of the options, backward, optimizer."""

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with options.autocast():
            value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    return step


SHORTEST = 0.05  # seconds of a timing: the clock and other processes disturb shorter ones

ENTRIES: dict[str, Callable[[Options], Result]] = {}


def entry(function: Callable[[Options], Result]) -> Callable[[Options], Result]:
    """Register a benchmark under its function's name."""
    ENTRIES[function.__name__] = function
    return function


def synchronize(options: Options) -> None:
    """Synchronize with the GPU; do nothing on a CPU."""
    if options.device == "cuda":
        torch.cuda.synchronize()


def timed(side: Side, options: Options, steps: int = 1) -> float:
    """Return the seconds of a step, the mean of several, synchronized at the end."""
    synchronize(options)
    start = time.perf_counter()
    for _ in range(steps):
        side.step()
    synchronize(options)
    return (time.perf_counter() - start) / steps


def warm_up(side: Side, options: Options) -> float:
    """Take two steps, or one that has many seconds; return the time of the last."""
    seconds = timed(side, options)
    return timed(side, options) if seconds < 5 else seconds


def peak_memory(side: Side, options: Options) -> float:
    """Return the peak memory of tensors in one step, in MiB, less the memory allocated before it."""
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
    """Context in which torch computes on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measured_peak(options: Options) -> float:
    """Measure the FLOP/s of a large matrix product and of a large convolution of this dtype: the larger one.

    Both, because on one core of an AMD EPYC with AVX-512 the product reached 102 GFLOP/s and the convolution 222.
    """
    n, side = (8192, 256) if options.device == "cuda" else (2048, 64)
    dtype = getattr(torch, options.dtype)
    a, b = (torch.randn(n, n, device=options.device, dtype=dtype) for _ in range(2))
    image = options.images(2, 256, side, side).to(dtype)
    kernel = torch.randn(256, 256, 3, 3, device=options.device, dtype=dtype)
    work = [
        Side("matmul", lambda: a @ b, 1, flops=2 * n**3),
        Side("convolution", lambda: F.conv2d(image, kernel, padding=1), 1, flops=2 * kernel.numel() * 2 * side**2),
    ]
    for product in 2 * work:
        timed(product, options)
    return max(product.flops / min(timed(product, options) for _ in range(7)) for product in work)


def spread_of(times: list[float], first: list[float]) -> tuple[float, float] | None:
    """Return the quartiles of the ratio of two sides within rounds, of fewer than four the extremes; None for one."""
    ratios = [one / other for one, other in zip(times, first, strict=True)]
    if len(ratios) < 4:
        return (min(ratios), max(ratios)) if len(ratios) > 1 else None
    low, _, high = statistics.quantiles(ratios, n=4)
    return low, high


def compare(
    title: str, sides: list[Side], options: Options, notes: list[str] | None = None, peers: Collection[str] = ()
) -> Result:
    """Run the sides interleaved; the ratio is each side's median time over that of the first.

    A timing has as many steps, the same number on every side, as take the slowest about 50 ms.

    Args:
        title: of the table.
        sides: Darkroom's first.
        options: of the run.
        notes: below the table.
        peers: sides by other programs whose work can be compared with that of the first one.

    Raises:
        SystemExit: no side has the name ``options.side``.
    """
    names = [side.name for side in sides]
    sides = [side for side in sides if options.side in (None, side.name)]
    if not sides:
        raise SystemExit(f"--side must be one of {'; '.join(names)}; got {options.side!r}")
    counted = bool(sides[0].flops)
    peak = measured_peak(options) if counted else None
    steps = max(1, round(SHORTEST / max(warm_up(side, options) for side in sides)))
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            times[side.name].append(timed(side, options, steps))
    if peak is not None:  # again, because other programs may have used the machine the first time
        peak = max(peak, measured_peak(options))
    result = Result(title, notes=list(notes or []))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for side in sides:
        median = medians[side.name]
        share = side.flops / median / peak if peak and side.flops else None
        row = Row(
            name=side.name,
            ms=1e3 * median,
            per_second=side.images / median,
            ratio=median / medians[sides[0].name],
            peak_mib=peak_memory(side, options),
            of_peak=share,
            spread=None if side is sides[0] else spread_of(times[side.name], times[sides[0].name]),
            peer=side.name in peers,
            flops=side.flops or None,
        )
        result.rows.append(row)
    if eager := [side.name for side in sides if side.eager]:
        result.notes.append(f"Not compiled: {', '.join(eager)}.")
    if counted:
        result.notes.append(_describe_work(sides, peers))
    return result


def _describe_work(sides: list[Side], peers: Collection[str]) -> str:
    """Return parameters and operations of the sides, and whether those of the peers, or of all, are the first side's."""
    first, *others = sides
    compared = [side for side in others if not peers or side.name in peers]
    differ = [
        side.name
        for side in compared
        if side.parameters != first.parameters or not math.isclose(side.flops, first.flops, rel_tol=1e-2)
    ]
    verdict = ""
    if differ:
        verdict = f"Work differs: {', '.join(differ)}. " if peers else "Work differs. "
    elif compared:
        verdict = "Equal work. "
    listed = (
        f"{side.name}: {side.parameters:,} parameters, {side.flops / 1e9:.1f} GFLOP"
        + (f", first loss {side.loss:.4g}" if side.loss is not None else "")
        for side in sides
    )
    return verdict + "; ".join(listed)


def machine(options: Options) -> str:
    """Describe the machine and the versions of a measurement."""
    import lightning
    import torchvision

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{cpu}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, lightning {lightning.__version__}"
    return f"{device}; {options.dtype}; Python {platform.python_version()}, {versions}"
