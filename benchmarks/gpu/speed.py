"""Speed on the device: entries of ``benchmarks.speed`` with their peers, utilization of large networks, and the demo."""

import contextlib
import csv
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.profile_steps import CONFIGS
from benchmarks.speed import classification, detection, diffusion, generation, imagen, metrics, networks  # noqa: F401 (register entries)
from benchmarks.speed.harness import ENTRIES, Options, compare, side_of
from darkroom.__main__ import main as darkroom
from darkroom.lightning_modules.diffusion import DenoisingUNet
from darkroom.lightning_modules.segmentation import UNetNetwork

# The most important rows first: the visit may end before the last ones.
IMPORTANT = (
    *("unet_step", "ddpm_step", "segmentation_steps", "detection_steps", "faster_rcnn_against_torchvision"),
    *("ssd_against_torchvision", "vae_step", "dcgan_step", "text_to_image_step", "ddim_20", "segmentation_scores"),
    *("detection_inference", "super_resolution_step", "segmentation_evaluation", "cascade_sampling", "vgg11_step"),
)


def measure_entry(name: str, options: Options) -> Iterator[dict[str, Any]]:
    """Yield a row for each side of an entry."""
    for row in ENTRIES[name](options).rows:
        yield {
            "side": row.name,
            "dtype": options.dtype,
            "compiled": options.compile,
            "ms": round(row.ms, 3),
            "images_per_second": round(row.per_second, 1),
            "peak_mib": None if row.peak_mib is None else round(row.peak_mib),
            "of_peak": None if row.of_peak is None else round(row.of_peak, 3),
            "ratio": round(row.ratio, 3),
        }


def measure_utilization(options: Options, tiny: bool) -> Iterator[dict[str, Any]]:
    """Yield the fraction of the measured peak in a training step of the two large U-Nets."""
    side, batch, width = (32, 2, 4) if tiny else (512, 16, 64)
    unet = options.place(UNetNetwork(num_classes=21, base_channels=width))
    image = options.images(batch, 3, side, side)
    side, batch, width = (16, 2, 8) if tiny else (64, 64, 128)
    denoiser = options.place(DenoisingUNet((3, side, side), base_channels=width, head_channels=min(64, width)))
    x, t = options.images(batch, 3, side, side), torch.zeros(batch, device=options.device, dtype=torch.long)

    def train_unet() -> None:
        with options.autocast():
            loss = unet(image).float().square().mean()
        loss.backward()

    def train_denoiser() -> None:
        with options.autocast():
            loss = denoiser(x, t).float().square().mean()
        loss.backward()

    for name, network, step, images in (
        ("U-Net", unet, train_unet, len(image)),
        ("denoising U-Net", denoiser, train_denoiser, batch),
    ):
        (row,) = compare(name, [side_of(name, [network], step, images, options)], options).rows
        yield {"side": name, "compiled": options.compile, "ms": round(row.ms, 3), "of_peak": round(row.of_peak or 0, 3)}


def measure_demo(device: str, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the images per second of a fit of the demo's config, data loading included."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        accelerator = "gpu" if device == "cuda" else "cpu"
        argv = ["fit", f"--config={CONFIGS}/segmentation/unet.yaml", f"--runs_dir={folder}", "--experiment=demo"]
        argv += [
            f"--trainer.max_steps={steps}",
            "--trainer.limit_val_batches=1",
            f"--trainer.accelerator={accelerator}",
        ]
        if darkroom([*argv, "--trainer.devices=1", "--trainer.log_every_n_steps=5"]):
            raise RuntimeError("the fit of the demo failed")
        with (Path(folder) / "demo/0/metrics.csv").open(newline="") as file:
            rates = [
                float(row["train/images_per_second"])
                for row in csv.DictReader(file)
                if row.get("train/images_per_second")
            ]
    yield {"images_per_second": round(max(rates), 1), "steps": steps}
