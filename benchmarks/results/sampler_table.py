"""Compare samplers on a diffusion model: ``python -m benchmarks.results.sampler_table RUN [--steps N ...] --out FILE``.

RUN is the folder of a trained run. All samplers start from the same noise, and their samples are compared with the same
test images. Settings after the sampler's name replace those of the model: ``ddim,spacing=quadratic,guidance=2``. They are
spacing, shift, guidance, eta, order, churn, variance, threshold and percentile.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from torch import Tensor, nn

from benchmarks.results.generation_ladder import opened
from benchmarks.speed.harness import Options, Side, machine, timed
from darkroom.callbacks.plotting.curves import curves
from darkroom.cli.catalog import import_all
from darkroom.datamodules.base import VisionDataModule
from darkroom.lightning_modules.diffusion.base import Diffusion
from darkroom.lightning_modules.diffusion.sampling.sampler_config import SamplerName
from darkroom.lightning_modules.metrics import SampleScores
from darkroom.lightning_modules.metrics.reference_classifier import load_or_train_classifier

SAMPLERS: dict[str, SamplerName] = {name: name for name in get_args(SamplerName)}
SETTINGS = ("spacing", "shift", "guidance", "eta", "order", "churn", "variance", "threshold", "percentile")


def parsed(row: str) -> tuple[SamplerName, dict[str, Any]]:
    """Parse a sampler and its settings, such as ``ddim,spacing=quadratic``.

    Raises:
        argparse.ArgumentTypeError: the sampler or a setting is unknown.
    """
    sampler, *pairs = row.split(",")
    settings = dict(pair.partition("=")[::2] for pair in pairs)
    unknown = ({sampler} - set(SAMPLERS)) | (settings.keys() - set(SETTINGS))
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{row}: unknown {', '.join(sorted(unknown))}; samplers are {', '.join(SAMPLERS)}, settings "
            f"{', '.join(SETTINGS)}"
        )
    return SAMPLERS[sampler], {name: yaml.safe_load(value) for name, value in settings.items()}


class Watched:
    """Model that samples with one sampler and measures its cost.

    Attributes:
        seconds: time of sampling.
        evaluations: rows of the network's input over all images; guidance needs two rows per image.
    """

    def __init__(
        self, model: Diffusion, sampler: SamplerName, steps: int, settings: dict[str, Any], options: Options
    ) -> None:
        self.model = copy.copy(model)  # the same weights, its own settings
        self.model.sampling = replace(model.sampling, sampler=sampler, steps=steps, **({"spacing": None} | settings))
        self.num_classes, self.device, self.to_uint8 = model.num_classes, model.device, model.to_uint8
        self.options, self.seconds, self.evaluations = options, 0.0, 0

    def sample(self, n: int, *, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Sample n images (n, C, H, W); add time and evaluations to the sums."""

        def count(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.evaluations += len(inputs[0])

        samples = []

        def draw() -> None:
            with self.options.autocast():
                samples.append(self.model.sample(n, labels=labels, generator=generator))

        with self.model.sampling_network.register_forward_pre_hook(count):
            self.seconds += timed(Side("", draw, n), self.options)
        return samples[0]


def judge(data: VisionDataModule, num_samples: int, batch_size: int, device: torch.device) -> SampleScores:
    """Build scores that hold the first test images of a data set."""
    scores = SampleScores(num_samples=num_samples, batch_size=batch_size)
    scores._network, accuracy = load_or_train_classifier(data)
    dataset = data.dataset("test")
    for start in range(0, min(num_samples, len(dataset)), 100):
        some = [dataset[index] for index in range(start, min(start + 100, num_samples, len(dataset)))]
        images = torch.stack([torch.as_tensor(sample["image"]) for sample in some])
        scores.update("test", images.to(device), {})
    print(f"Accuracy of the reference classifier: {accuracy:.1%}.\n")
    return scores


def main() -> None:
    """Print the table, each row as soon as it is measured, and plot cnn_fid as PNG, PDF and SVG."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.sampler_table", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 20, 50, 100])
    parser.add_argument(
        "--full", nargs="*", choices=SAMPLERS, default=["ancestral"], help="run these with all T steps too"
    )
    parser.add_argument("--samplers", nargs="+", type=parsed, default=[(name, {}) for name in SAMPLERS])
    parser.add_argument("--num_samples", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import_all()
    data, model = opened(arguments.run, arguments.checkpoint)
    if not isinstance(model, Diffusion):
        parser.error(f"{arguments.run}: the model must be a diffusion model, got {type(model).__name__}")
    model = model.to(arguments.device)
    if max(arguments.steps) > model.schedule.num_steps:
        parser.error(
            f"--steps must be at most {model.schedule.num_steps}, the times of the model, got {max(arguments.steps)}"
        )
    options = Options(device=arguments.device, dtype=arguments.dtype)
    print(f"`{arguments.run}`, {arguments.num_samples} samples, {machine(options)}")
    scores = judge(data, arguments.num_samples, arguments.batch_size, model.device)
    series: dict[str, list[tuple[float, float]]] = {}
    for sampler, settings in arguments.samplers:
        name = " ".join([sampler, *(f"{key} {value}" for key, value in settings.items())])
        for steps in [*arguments.steps, *([model.schedule.num_steps] if sampler in arguments.full else [])]:
            watched = Watched(model, sampler, steps, settings, options)
            values = scores.compute("test", watched)
            evaluations = watched.evaluations / arguments.num_samples
            row = {"sampler": name, "steps": str(steps), "network evaluations": f"{evaluations:.0f}"}
            row |= {key: f"{value:.3g}" for key, value in values.items()} | {"seconds": f"{watched.seconds:.1f}"}
            if not series:
                print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
            print(f"| {' | '.join(row.values())} |", flush=True)
            series.setdefault(name, []).append((evaluations, values["cnn_fid"]))
    points = [torch.tensor(sorted(some)) for some in series.values()]
    chart = curves(points, list(series), "", ("network evaluations per image", "cnn_fid"), log_x=True, log_y=True)
    chart.save(arguments.out.with_suffix(""))


if __name__ == "__main__":
    main()
