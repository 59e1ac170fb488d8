"""``python -m benchmarks plan_check``: predicted against measured training steps of ten configs, on one core.

Fractions of the peak rates are fitted on other configs (``CALIBRATION``), and then predict the ten.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks.planning.measure import measure
from benchmarks.profile_steps import CONFIGS
from darkroom.cli.commands.plan import plan_config
from darkroom.plan.counting.profile import StepProfile
from darkroom.plan.counting.trace import Work
from darkroom.plan.hardware import GPUS, Hardware, measure_cpu

CHECKED = (
    *("classification/vgg", "segmentation/unet", "segmentation/fcn", "detection/ssd", "detection/yolo"),
    *("detection/faster_rcnn", "autoencoding/vae", "adversarial/dcgan", "diffusion/ddpm", "diffusion/imagen"),
)
CALIBRATION = (
    *("classification/kinds_vgg11", "segmentation/dilated", "detection/fast_rcnn", "autoencoding/autoencoder"),
    *("diffusion/ddpm_conditional", "diffusion/rectified_flow", "diffusion/improved_ddpm"),
    *("detection/mask_rcnn", "detection/sliding_window"),  # many small operations
)


def profile_of(name: str) -> StepProfile:
    """Count the training step of a config."""
    return plan_config(["--config", str(CONFIGS / f"{name}.yaml"), "--gpu", "h100", "--precision", "32-true"])[
        0
    ].profile


def terms(work: Work, device: Hardware) -> list[float]:
    """Return the three terms of the time at full rates: products, other operations, number of operations."""
    return [work.flops / device.fp32, work.traffic / device.bandwidth, work.kernels]


@dataclass(frozen=True)
class Row:
    """Counted and measured step of a config.

    Args:
        config: FAMILY/NAME.
        work: counted.
        peak: counted bytes.
        seconds, measured_peak: see ``Measured``.
        fp32, bandwidth: rates of the machine just before the measurement.
    """

    config: str
    work: Work
    peak: float
    seconds: float
    measured_peak: float
    fp32: float
    bandwidth: float

    @property
    def terms(self) -> list[float]:
        """Terms of the time at the rates of the machine."""
        return terms(self.work, replace(GPUS["h100"], fp32=self.fp32, bandwidth=self.bandwidth))


def measure_row(name: str) -> Row:
    """Count and measure a config."""
    profile, device, step = profile_of(name), measure_cpu(), measure(name)
    return Row(name, profile.work, profile.peak, step.seconds, step.peak, device.fp32, device.bandwidth)


def calibrate(rows: Sequence[Row]) -> np.ndarray:
    """Fit the factor of each term, at least 0, by least squares of relative errors."""
    return nnls(np.array([np.divide(row.terms, row.seconds) for row in rows]), np.ones(len(rows)))[0]


def read_rows(path: Path) -> dict[str, Row]:
    """Read the rows of a file, which an earlier command has written."""
    if not path.is_file():
        return {}
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {one["config"]: Row(**{**one, "work": Work(**one["work"])}) for one in found}


def table(rows: Sequence[Row], factors: np.ndarray) -> list[str]:
    """Return the lines of the table, and the largest differences of the configs that were not used to calibrate."""
    lines = [
        "| config | memory predicted, MB | measured | difference | time predicted, ms | measured | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    errors = []
    for row in rows:
        seconds = float(np.dot(factors, row.terms))
        memory, time = row.peak / row.measured_peak - 1, seconds / row.seconds - 1
        checked = row.config in CHECKED
        if checked:
            errors.append((abs(memory), abs(time)))
        cells = (
            *(f"{row.peak / 1e6:.1f}", f"{row.measured_peak / 1e6:.1f}", f"{memory:+.0%}"),
            *(f"{1e3 * seconds:.1f}", f"{1e3 * row.seconds:.1f}", f"{time:+.0%}"),
        )
        lines.append(f"| {row.config}{'' if checked else ' (calibration)'} | {' | '.join(cells)} |")
    memory, time = (max(kind, default=0.0) for kind in zip(*errors, strict=True)) if errors else (0.0, 0.0)
    within = [sum(m <= 0.15 for m, _ in errors), sum(t <= 0.25 for _, t in errors)]
    lines += [
        "",
        f"{len(errors)} configs checked: memory within 15 % of {within[0]}, time within 25 % of {within[1]}; ",
    ]
    lines[-1] += f"largest differences {memory:.0%} and {time:.0%}"
    return lines


def main(argv: Sequence[str]) -> int:
    """Measure, calibrate, predict, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plan_check", description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("plan_check.jsonl"), help="measured rows, which are kept")
    path = parser.parse_args(argv).rows
    torch.set_num_threads(1)
    rows = read_rows(path)
    if rows:
        print(f"{len(rows)} configs of {path} are not measured again\n")
    for name in (*CALIBRATION, *CHECKED):
        if name not in rows:
            rows[name] = measure_row(name)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rows[name])) + "\n")
    factors = calibrate([rows[name] for name in CALIBRATION])
    with np.errstate(divide="ignore"):
        shares = 1 / factors
    print(
        f"of the peak in products {shares[0]:.2f}, of the bandwidth {shares[1]:.2f}, "
        f"{1e6 * factors[2]:.1f} us for each operation\n"
    )
    print("\n".join(table([rows[name] for name in (*CALIBRATION, *CHECKED)], factors)))
    return 0
