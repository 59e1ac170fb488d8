"""DenoisingLogger: trajectories from noise to samples, and the forward process."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from darkroom.callbacks.base import FigureCallback, generators, logged_step
from darkroom.callbacks.plotting.animation import animate
from darkroom.callbacks.plotting.grids import expand_to_rgb, image_grid, spread_indices
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.protocols import DiffusionModel, SamplerStep

_COLUMNS, _FRAMES = 10, 40  # moments of a trajectory in the strip and in the animation
_SMALLEST, _WIDEST = 64, 640  # pixels of a small image in the strips, and of the animation


class Moment(NamedTuple):
    """State of a sampler at a time: images uint8 (N, 3, H, W)."""

    when: str
    x: Tensor  # x_t
    x0: Tensor  # image that the network predicts from x_t


class DenoisingLogger(FigureCallback):
    """Shows the trajectory of samples from noise to image, and the forward process from image to noise.

    ``denoising``: x_t from noise to image, over the image that the network predicts from it, for a few samples from the
    same noise in every epoch, as ``figures/denoising/<step>.png``. When a fit ends, more samples are shown as an
    animation, ``trajectory.gif``.

    ``forward_process``: validation images at growing times of q(x_t | x_0), each with one noise. It does not change, so
    it is written once per run.

    ``validate`` and ``test`` write all three to ``figures/<stage>_denoising`` and ``figures/<stage>_forward_process``.

    Args:
        num_samples: number of samples in the strip, and of images in the forward process.
        grid: samples on each side of the animation; 0: no animation.
        steps: number of steps of the sampler; None: the model's own.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        seed: seed of the noise.
    """

    needs = DiffusionModel
    supported = "DDPM"

    def __init__(
        self,
        num_samples: int = 4,
        grid: int = 4,
        steps: int | None = None,
        every_n_validations: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_validations)
        self._check_at_least_1(num_samples=num_samples, **{"grid": grid} if grid else {})
        self.num_samples, self.grid, self.steps, self.seed = num_samples, grid, steps, seed
        self._images: list[Tensor] = []

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        """Save the first images of the set for the forward process."""
        missing = self.num_samples - len(self._images)
        if missing > 0:
            self._images += batch["image"][:missing].cpu()

    def log_figures(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Publish the forward process, once a run, and the trajectories of samples."""
        model = self.require(pl_module, DiffusionModel)
        images, self._images = self._images, []
        prefix = "" if trainer.state.fn == "fit" else f"{stage}_"
        forward = f"{prefix}forward_process"
        if images and (prefix or not any((self.folder / "figures" / forward).glob("*.png"))):
            self.publish(trainer, forward, self._forward_process(model, torch.stack(images)))
        moments = self._moments(trainer, self.num_samples, _COLUMNS)
        labels, class_names = self._labels(model, self.num_samples), self.data(trainer).class_names
        names = None if labels is None else [class_names[label] for label in labels.tolist()]
        self.publish(trainer, f"{prefix}denoising", strip(moments, names, f"step {logged_step(trainer)}"))
        if prefix:
            self._animate(trainer, f"{prefix}denoising")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._animate(trainer, "denoising")

    def _moments(self, trainer: Trainer, count: int, most: int) -> list[Moment]:
        """Sample ``count`` images; return at most ``most`` evenly spread moments of their trajectory, and its end."""
        model = self.require(trainer.lightning_module, DiffusionModel)
        with trainer.precision_plugin.forward_context():
            # A sample takes x_T from its generator first.
            noise = model.to_images(model.draw_latents(count, generators(self.seed, count)))
            record = _TrajectoryRecorder(noise, most, model.to_uint8)
            model.sample(
                count,
                labels=self._labels(model, count),
                steps=self.steps,
                generator=generators(self.seed, count),
                callback=record,
            )
        return record.moments()

    def _labels(self, model: DiffusionModel, count: int) -> Tensor | None:
        if model.num_classes is None:
            return None
        classes = torch.tensor(spread_indices(model.num_classes, count))
        return classes[torch.arange(count) % len(classes)]

    def _forward_process(self, model: DiffusionModel, images: Tensor) -> ImagePage:
        """Draw a row for each image of (N, C, H, W), at growing times, with alpha bar below."""
        schedule, x = model.schedule, images.to(model.device)
        times = torch.linspace(0, schedule.num_steps - 1, _COLUMNS).round().long().unique().tolist()
        codes = model.to_codes(x)
        noise = torch.randn(codes.shape, generator=torch.Generator().manual_seed(self.seed)).to(codes)
        noisy = [schedule.add_noise(codes, noise, torch.full((len(x),), t, device=x.device)) for t in times]
        columns = [expand_to_rgb(model.to_uint8(some)) for some in (x, *map(model.to_images, noisy))]
        left = [f"{alpha**2 / (alpha**2 + sigma**2):.2g}" for alpha, sigma in map(schedule.at, (-1, *times))]
        return image_grid(
            list(zip(*columns, strict=True)),
            heads=["image", *(f"t = {t}" for t in times)],
            title="the forward process, q(x_t | x_0); below, alpha bar: the image's fraction of x_t's variance",
            captions=[()] * (len(x) - 1) + [left],
            smallest=_SMALLEST,
        )

    def _animate(self, trainer: Trainer, what: str) -> None:
        """Write x_t beside the predicted images as ``trajectory.gif``."""
        if not self.grid:
            return
        moments = self._moments(trainer, self.grid**2, _FRAMES)
        frames = [
            reduce(ImagePage.beside, [image_grid(x.split(self.grid), title=title) for x, title in pair]).raster()
            for pair in (((moment.x, "x_t"), (moment.x0, "predicted x_0")) for moment in moments)
        ]
        path = self.folder / "figures" / what / "trajectory.gif"
        path.parent.mkdir(parents=True, exist_ok=True)
        animate(frames, [moment.when for moment in moments], path, most_side=_WIDEST, colours=256)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_video(f"{what}_trajectory", [str(path)], logged_step(trainer))


class _TrajectoryRecorder:
    """Callback of a sampler that saves evenly spread moments.

    Args:
        x: x_T, before the first step.
        most: maximum number of moments.
        to_uint8: function that converts images of the model to uint8.
    """

    def __init__(self, x: Tensor, most: int, to_uint8: Callable[[Tensor], Tensor]) -> None:
        self._x, self._most, self._to_uint8 = x, most, to_uint8
        self._saved: list[Moment] = []

    def __call__(self, step: SamplerStep) -> None:
        most = min(step.count, self._most)
        if step.index in [index * step.count // most for index in range(most)]:
            when = f"t = {step.t:.1f}".removesuffix(".0")
            self._saved.append(Moment(when, self._to_uint8(self._x), self._to_uint8(step.x0)))
        self._x = step.x

    def moments(self) -> list[Moment]:
        """Return the saved moments, from noise to the sample; on the CPU."""
        sample = self._to_uint8(self._x)
        return [
            Moment(when, expand_to_rgb(x), expand_to_rgb(x0))
            for when, x, x0 in (*self._saved, Moment("x_0", sample, sample))
        ]


def strip(moments: Sequence[Moment], class_names: Sequence[str] | None, title: str) -> ImagePage:
    """Draw two rows for each sample: x_t, and below it the image predicted from it.

    Args:
        moments: columns.
        class_names: class of each sample; None: without classes.
        title: title of the figure.
    """
    rows: list[list[Tensor]] = []
    names: list[str] = []
    captions: list[tuple[str, ...]] = []
    for index in range(len(moments[0].x)):
        rows += [[moment.x[index] for moment in moments], [moment.x0[index] for moment in moments[:-1]]]
        names += ["x_t" if class_names is None else f"{class_names[index]}   x_t", "predicted x_0"]
        captions += [(), ("",)]  # room between two samples
    heads = [moment.when for moment in moments]
    return image_grid(rows, names, heads, title, captions=[*captions[:-1], ()], smallest=_SMALLEST)
