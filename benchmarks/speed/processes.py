"""Training steps of programs in processes of their own: Darkroom as its command line starts it, peers as plain Python.

Within one process all sides have Darkroom's memory allocation (``keep_freed_memory``), which a plain loop does not have.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.speed.harness import Options, Result, Row, entry, spread_of
from benchmarks.speed.networks import PLAIN

STEPS = 5  # of a process, after its warm-up; their median counts


def _measure(name: str, side: str, plain: bool, options: Options) -> dict[str, float]:
    """Return the row of one side of an entry, measured in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        words = [name, "--side", side, "--rounds", str(STEPS), "--device", options.device, "--dtype", options.dtype]
        words += ["--json", str(file), *(["--plain"] if plain else [])]
        subprocess.run([sys.executable, "-m", "benchmarks", *words], check=True, capture_output=True)
        return json.loads(file.read_text(encoding="utf-8"))["entries"][0]["rows"][0]


def compare_processes(title: str, name: str, ours: str, peer: str, options: Options) -> Result:
    """Run two sides of an entry in turn, each in a new process.

    Args:
        title: of the table.
        name: of the entry.
        ours, peer: its sides.
        options: of the run; a round is a process of each side.
    """
    found = [[_measure(name, side, side == peer, options) for side in (ours, peer)] for _ in range(options.rounds)]
    times = {side: [row[place]["ms"] for row in found] for place, side in enumerate((ours, peer))}
    result, first = Result(title), statistics.median(times[ours])
    for place, side in enumerate((ours, peer)):
        ms, row = statistics.median(times[side]), found[0][place]
        images = row["per_second"] * row["ms"]  # a thousand times those of a step
        spread = spread_of(times[side], times[ours]) if side == peer else None
        result.rows.append(Row(side, ms, images / ms, ms / first, spread=spread, peer=side == peer, flops=row["flops"]))
    result.notes.append(f"Median of {STEPS} steps of a process. The peer's process allocates memory as Python does.")
    return result


@entry
def vae_processes(options: Options) -> Result:
    """Compare VAE training steps, batch 64, with those of PyTorch-VAE's plain loop in a process of its own."""
    sides = "darkroom VAE, channels_last", "PyTorch-VAE's layers and loss, plain loop"
    return compare_processes("VAE training step, in processes of their own", "vae_step", *sides, options)


@entry
def dcgan_processes(options: Options) -> Result:
    """Compare DCGAN training steps, batch 64, with those of PyTorch's example in a process of its own."""
    sides = "darkroom DCGAN, a Trainer's fit, channels_last", "PyTorch's example, plain loop"
    return compare_processes("DCGAN training step, in processes of their own", "dcgan_step", *sides, options)


@entry
def unet_processes(options: Options) -> Result:
    """Compare training steps of U-Net, base width 64, with those of a plain loop in a process of its own."""
    return compare_processes(
        "U-Net training step, in processes of their own", "unet_step", "darkroom UNet", PLAIN, options
    )
