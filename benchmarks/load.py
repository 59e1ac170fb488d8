"""Load of the machine while something is measured: the processors that other processes use."""

import os
import time
from pathlib import Path
from typing import NamedTuple

IDLE = 0.1  # processors that others may use, at most, on a machine that is called idle


class ProcessorUse(NamedTuple):
    """Seconds since an arbitrary start.

    Attributes:
        elapsed: time.
        busy: processor time of all processes of the machine.
        own: processor time of this process and its ended children.
    """

    elapsed: float
    busy: float
    own: float


def processor_use() -> ProcessorUse | None:
    """Read the processor time of the machine and of this process; None on systems without ``/proc/stat``."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, *interrupts = (int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9])
    busy = (user + nice + system + sum(interrupts)) / os.sysconf(
        "SC_CLK_TCK"
    )  # idle and waiting for disks are left out
    return ProcessorUse(time.perf_counter(), busy, sum(os.times()[:4]))


def processors_of_others(before: ProcessorUse | None, after: ProcessorUse | None) -> float | None:
    """Return the number of processors that other processes used on average between two readings; None if unknown."""
    if before is None or after is None or after.elapsed <= before.elapsed:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, others / (after.elapsed - before.elapsed))
