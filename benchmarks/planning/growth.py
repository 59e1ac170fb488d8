"""``python -m benchmarks growth [NAME ...]``: exponents of work, memory and time against sizes of a training step.

Each case has three points of one size. The exponent is the slope of the least-squares line through the logarithms. FLOPs
and bytes are counted; the time is that of the processor on one core, with weights of 0, which does not change it.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.profile_steps import CONFIGS
from darkroom.cli.building.plan_build import Built, build_config
from darkroom.plan.counting.batch import BatchShape, make_batch
from darkroom.plan.counting.profile import StepProfile, profile_step
from darkroom.plan.counting.step import detach_from_trainer, train_step
from darkroom.plan.counting.weights import fill_weights


@dataclass(frozen=True)
class Case:
    """Size of a training step that takes three values.

    Args:
        config: FAMILY/NAME of a config.
        size: images, side, classes, objects, words or times.
        points: its values, rising.
        limit: greatest exponent of FLOPs, bytes and time that the method's mathematics demands.
        options: of the command line, with "{}" where the value is inserted.
    """

    config: str
    size: str
    points: tuple[int, int, int]
    limit: float
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name in the table and on the command line."""
        return f"{self.config}:{self.size}"

    def build(self, value: int) -> Built:
        """Build model and data of one point."""
        words = [word.format(value) for word in self.options]
        return build_config(
            ["--config", str(CONFIGS / f"{self.config}.yaml"), *words], value if self.size == "classes" else None
        )

    def shape(self, value: int) -> BatchShape:
        """Return the sizes of the batch of one point; two images, unless their number is the size."""
        usual = BatchShape(images=2)
        if self.size not in ("images", "objects", "words"):
            return usual
        return BatchShape(**{**vars(usual), self.size: value})


_SIDE = ("--data.side", "{}")
_RCNN = (*_SIDE, "--model.min_side", "{}", "--model.max_side", "{}")
_TIMES = ("--model.schedule", "LinearSchedule", "--model.schedule.num_steps", "{}")
TOLERANCE = 0.05
_FEW, _MANY = (2, 4, 8), (8, 32, 128)
CASES = (
    # Pixels: the square of the side. Images of a batch do not depend on each other.
    *(
        Case(f"segmentation/{name}", "side", (64, 128, 256), 2, _SIDE)
        for name in ("unet", "fcn", "deconvnet", "dilated")
    ),
    Case("detection/faster_rcnn", "side", (64, 128, 256), 2, _RCNN),
    Case("detection/yolo", "side", (64, 128, 256), 2, (*_SIDE, "--model.image_size", "{}")),
    # DCGAN has a layer more for each doubling, of twice the channels: the square times the number of layers.
    Case("adversarial/dcgan", "side", (16, 32, 64), 3, _SIDE),
    Case("autoencoding/vae", "side", (32, 64, 128), 2, _SIDE),
    # Attention compares all pairs of pixels of its maps: up to the fourth power of the side.
    Case("diffusion/ddpm", "side", (16, 32, 64), 4, _SIDE),
    *(
        Case(name, "images", _FEW, 1)
        for name in (
            *("classification/vgg", "segmentation/unet", "segmentation/fcn", "segmentation/deconvnet"),
            *("segmentation/dilated", "segmentation/convolutionalized", "detection/faster_rcnn", "detection/yolo"),
            *("autoencoding/autoencoder", "autoencoding/vae"),
            *("autoencoding/conditional_vae", "adversarial/dcgan", "diffusion/ddpm", "diffusion/improved_ddpm"),
            *("diffusion/imagen", "diffusion/imagen_sr", "diffusion/rectified_flow"),
        )
    ),
    # One logit for each class, or one box for each class and region.
    Case("classification/vgg", "classes", _MANY, 1),
    Case("segmentation/unet", "classes", _MANY, 1),
    *(Case(f"detection/{name}", "classes", _MANY, 1) for name in ("faster_rcnn", "ssd", "yolo")),
    # Default boxes or anchors are compared with every box of the truth.
    *(Case(f"detection/{name}", "objects", (4, 16, 64), 1) for name in ("faster_rcnn", "ssd", "yolo")),
    # Every pixel attends to every word; the learned encoder's words attend to each other.
    Case("diffusion/imagen", "words", (8, 16, 32), 2),
    # A training step has one time of each image, however many there are; tables of the schedule grow.
    Case("diffusion/ddpm", "times", (100, 1000, 10_000), 0, _TIMES),
)


def exponent(points: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the least-squares line through (log point, log value)."""
    x, y = [math.log(point) for point in points], [math.log(max(value, 1e-12)) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def count(case: Case) -> list[StepProfile]:
    """Count the step at each point."""
    found = []
    for value in case.points:
        built = case.build(value)
        found.append(profile_step(built.model, built.data, case.shape(value), "32-true"))
    return found


def grown_bytes(profile: StepProfile) -> float:
    """Return the bytes of activations and gradients: methods with two optimizers have not all gradients at the peak."""
    return profile.activations + profile.gradients


def seconds(case: Case, value: int, rounds: int = 2) -> float:
    """Measure the processor time of the step at one point."""
    built = case.build(value)
    model = built.model
    fill_weights(model)
    shape = case.shape(value)
    optimizers = detach_from_trainer(model.train(), shape.words)
    batch = make_batch(built.data, shape, vars(model).get("num_classes") or 1)
    times = []
    for _ in range(1 + rounds):
        start = time.process_time()
        train_step(model, optimizers, batch, "32-true")
        times.append(time.process_time() - start)
    return median(times[1:])


def main(argv: Sequence[str]) -> int:
    """Print a table of exponents; return 1 if work or memory grows faster than its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="FAMILY/NAME:SIZE; default: all")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    known = {case.name: case for case in CASES}
    if unknown := set(arguments.names) - known.keys():
        parser.error(f"NAME must be one of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    print(
        "| step | size | points | FLOPs | activations, gradients | time | demanded at most |\n|---|---|---|---|---|---|---|"
    )
    too_fast = False
    for case in [known[name] for name in arguments.names] or CASES:
        profiles = count(case)
        work = exponent(case.points, [profile.work.flops for profile in profiles])
        memory = exponent(case.points, [grown_bytes(profile) for profile in profiles])
        timed = exponent(case.points, [seconds(case, value) for value in case.points])
        too_fast |= max(work, memory) > case.limit + TOLERANCE
        points = ", ".join(map(str, case.points))
        cells = (f"{work:.2f}", f"{memory:.2f}", f"{timed:.2f}", f"{case.limit:g}")
        print(f"| {case.config} | {case.size} | {points} | {' | '.join(cells)} |", flush=True)
    return int(too_fast)
