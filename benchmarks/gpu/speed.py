"""Speed on the device: entries of ``benchmarks.speed`` with their peers, utilization of large networks, and the demo."""

import contextlib
import csv
import io
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import benchmarks.entries  # noqa: F401 (registers the entries)
from benchmarks.profile_steps import CONFIGS
from benchmarks.record import keep, measure
from benchmarks.speed.harness import Options, compare, descend, side_of
from darkroom.__main__ import main as darkroom
from darkroom.lightning_modules.diffusion import DenoisingUNet
from darkroom.lightning_modules.segmentation import UNetNetwork

# The most important rows first: the visit may end before the last ones.
IMPORTANT = (
    *("unet_step", "ddpm_step", "segmentation_steps", "detection_steps", "faster_rcnn_against_torchvision"),
    *("ssd_against_torchvision", "vae_step", "dcgan_step", "text_to_image_step", "ddim_20", "segmentation_scores"),
    *("detection_inference", "super_resolution_step", "segmentation_evaluation", "cascade_sampling", "vgg11_step"),
)
EAGER = ("segmentation_scores", "segmentation_evaluation")  # whose sides are not compiled


def measure_entry(name: str, options: Options, recorded: Path | None) -> Iterator[dict[str, Any]]:
    """Yield a row for each side of an entry, then a row with its notes, which name peers that are not installed.

    Args:
        name: of the entry.
        options: of the run.
        recorded: file of all records that keeps this one, with its page; None: no file.
    """
    record = measure(name, options)
    for row in record["rows"]:
        numbers = {"ms": row["ms"], "images_per_second": row["per_second"], "ratio": row["ratio"]}
        numbers |= {"peak_mib": row["peak_mib"], "of_peak": row["of_peak"]}
        rounded = {key: None if value is None else float(f"{value:.4g}") for key, value in numbers.items()}
        yield {"side": row["name"], "dtype": options.dtype, "compiled": options.compile, **rounded}
    if record["notes"]:
        yield {"note": " ".join(record["notes"])}
    if recorded:
        keep(name, record, options, recorded)


def measure_utilization(options: Options, tiny: bool) -> Iterator[dict[str, Any]]:
    """Yield the fraction of the measured peak in a training step of the two large U-Nets, with fused AdamW."""
    side, batch, width = (32, 2, 4) if tiny else (512, 16, 64)
    unet = options.place(UNetNetwork(num_classes=21, base_channels=width))
    image = options.images(batch, 3, side, side)
    side, batch, width = (16, 2, 8) if tiny else (64, 64, 128)
    denoiser = options.place(DenoisingUNet((3, side, side), base_channels=width, head_channels=min(64, width)))
    x, t = options.images(batch, 3, side, side), torch.zeros(batch, device=options.device, dtype=torch.long)

    def step_of(network: nn.Module, *inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
        return descend(optimizer, lambda: network(*inputs).float().square().mean(), options)

    for name, network, step, images in (
        ("U-Net", unet, step_of(unet, image), len(image)),
        ("denoising U-Net", denoiser, step_of(denoiser, x, t), batch),
    ):
        (row,) = compare(name, [side_of(name, [network], step, images, options)], options).rows
        yield {"side": name, "compiled": options.compile, "ms": round(row.ms, 3), "of_peak": round(row.of_peak or 0, 3)}


def measure_demo(device: str, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the images per second of a fit of the demo's config with its loader; on a GPU with the overlay gpu.yaml."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        argv = ["fit", f"--config={CONFIGS}/segmentation/unet.yaml", f"--runs_dir={folder}", "--experiment=demo"]
        if device == "cuda":
            argv += [f"--config={CONFIGS}/trainer/gpu.yaml"]
        argv += [f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1", "--trainer.limit_val_batches=1"]
        argv += [f"--trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}", "--trainer.devices=1"]
        if darkroom([*argv, "--trainer.log_every_n_steps=5"]):
            raise RuntimeError("the fit of the demo failed")
        with (Path(folder) / "demo/0/metrics.csv").open(newline="") as file:
            rates = [
                float(row["train/images_per_second"])
                for row in csv.DictReader(file)
                if row.get("train/images_per_second")
            ]
    later = rates[len(rates) // 2 :]  # the first steps compile
    yield {"images_per_second": round(statistics.median(later), 1), "steps": steps}
