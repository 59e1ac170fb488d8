"""Training steps of programs in processes of their own: Darkroom as its command line starts it, peers as plain Python.

Within one process all sides have Darkroom's memory allocation (``keep_freed_memory``), which a plain loop does not have.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.speed.generation import PUBLIC_GAN, PUBLIC_VAE
from benchmarks.speed.harness import Options, Result, Row, entry, spread_of
from benchmarks.speed.networks import PLAIN

STEPS = 5  # of a process, after its warm-up; their median counts
# Sides of entries: ours and a peer's.
PAIRS = {
    "vae_step": ("darkroom VAE, channels_last", PUBLIC_VAE),
    "dcgan_step": ("darkroom DCGAN, a Trainer's fit, channels_last", PUBLIC_GAN),
    "unet_step": ("darkroom UNet", PLAIN),
}


def measure_side(name: str, side: str, plain: bool, options: Options) -> dict[str, Any]:
    """Measure one side of an entry in a new process; return its record.

    Args:
        name: of the entry.
        side: of the entry.
        plain: the process allocates memory as Python does, and not as ``keep_freed_memory`` makes it.
        options: of the run.

    Raises:
        RuntimeError: the process failed; with the end of its messages.
    """
    words = [name, "--side", side, "--rounds", str(STEPS), "--device", options.device, "--dtype", options.dtype]
    words += ["--compile"] * options.compile + ["--channels-last"] * options.channels_last + ["--plain"] * plain
    inherited = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        command = [sys.executable, "-m", "benchmarks", *words, "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=inherited)
        if done.returncode:
            raise RuntimeError(f"python -m benchmarks {name} --side {side!r} failed: {done.stderr[-300:]}")
        return json.loads(file.read_text(encoding="utf-8"))["entries"][0]


def compare_processes(name: str, options: Options) -> Result:
    """Run two sides of an entry in turn, each in a new process.

    Args:
        name: of the entry, in ``PAIRS``.
        options: of the run; a round is a process of each side.
    """
    ours, peer = PAIRS[name]
    found = [[measure_side(name, side, side == peer, options) for side in (ours, peer)] for _ in range(options.rounds)]
    times = {side: [record[place]["rows"][0]["ms"] for record in found] for place, side in enumerate((ours, peer))}
    result, first = Result(f"{found[0][0]['title']}, each program in its own process"), statistics.median(times[ours])
    for place, side in enumerate((ours, peer)):
        ms, row = statistics.median(times[side]), found[0][place]["rows"][0]
        images = row["per_second"] * row["ms"]  # a thousand times those of a step
        spread = spread_of(times[side], times[ours]) if side == peer else None
        result.rows.append(Row(side, ms, images / ms, ms / first, spread=spread, peer=side == peer, flops=row["flops"]))
    result.notes += [note for note in found[0][0]["notes"] if not note.startswith("Equal work")]
    result.notes.append(f"Medians of {STEPS} timings of a process. The peer's process allocates memory as Python does.")
    return result


@entry
def vae_processes(options: Options) -> Result:
    """Compare VAE training steps, batch 64, with those of PyTorch-VAE's plain loop in a process of its own."""
    return compare_processes("vae_step", options)


@entry
def dcgan_processes(options: Options) -> Result:
    """Compare DCGAN training steps, batch 64, with those of PyTorch's example in a process of its own."""
    return compare_processes("dcgan_step", options)


@entry
def unet_processes(options: Options) -> Result:
    """Compare training steps of U-Net, base width 64, with those of a plain loop in a process of its own."""
    return compare_processes("unet_step", options)
