"""DenoisingLogger: how noise becomes a picture, and a picture noise."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from darkroom.callbacks.base import PeriodicPictures, steps_taken
from darkroom.callbacks.plotting.animation import animate
from darkroom.callbacks.plotting.grids import as_pictures, picture_grid, spread

_COLUMNS, _FRAMES = 10, 40  # moments shown of a trajectory, in the strip and in the animation
_SMALLEST, _WIDEST = 64, 640  # pixels of a small picture in the strips, and of the animation


class Moment(NamedTuple):
    """What a sampler had at a time: pictures uint8 (N, 3, H, W)."""

    when: str
    x: Tensor  # x_t
    x0: Tensor  # the picture that the network sees behind it


class DenoisingLogger(PeriodicPictures):
    """Draws how noise becomes a picture, and how a picture became noise.

    ``denoising``: x_t on its way from noise to a picture, over the picture that the network predicts from it, for a few
    samples from the same noise every time, as ``pictures/denoising/<step>.png``; when a fit ends, of more samples too, as
    an animation, ``trajectory.gif``.

    ``forward_process``: validation pictures at growing times of q(x_t | x_0), each with one noise. It does not change, so a
    run has it once.

    ``validate`` and ``test`` draw all three into ``pictures/<stage>_denoising`` and ``pictures/<stage>_forward_process``.

    Args:
        num_samples: how many samples in the strip, and pictures in the forward process.
        grid: samples on each side of the animation; 0: no animation.
        steps: of the model's sampler; None: the model's own.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        seed: decides the noise.
    """

    methods = ("sample", "draw_latents", "errors_at", "to_uint8")  # errors_at: only diffusion has it, and steps to show
    techniques = "DDPM"

    def __init__(
        self,
        num_samples: int = 4,
        grid: int = 4,
        steps: int | None = None,
        every_n_validations: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_validations)
        self._at_least_1(num_samples=num_samples, **{"grid": grid} if grid else {})
        self.num_samples, self.grid, self.steps, self.seed = num_samples, grid, steps, seed
        self._images: list[Tensor] = []

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        missing = self.num_samples - len(self._images)
        if missing > 0:
            self._images += batch["image"][:missing].cpu()

    def draw_all(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        images, self._images = self._images, []
        prefix = "" if trainer.state.fn == "fit" else f"{stage}_"
        forward = f"{prefix}forward_process"
        if images and (prefix or not any((self.folder / "pictures" / forward).glob("*.png"))):
            self.publish(trainer, forward, self._forward_process(pl_module, torch.stack(images)))
        moments = self._moments(trainer, self.num_samples, _COLUMNS)
        labels = self._labels(pl_module, self.num_samples)
        names = None if labels is None else [trainer.datamodule.class_names[label] for label in labels.tolist()]
        self.publish(trainer, f"{prefix}denoising", strip(moments, names, f"step {steps_taken(trainer)}"))
        if prefix:
            self._animate(trainer, f"{prefix}denoising")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._animate(trainer, "denoising")

    def _moments(self, trainer: Trainer, count: int, most: int) -> list[Moment]:
        """At most so many moments on the way to so many samples, evenly spread, and its end."""
        module = trainer.lightning_module
        labels = self._labels(module, count)
        with trainer.precision_plugin.forward_context():
            # The first that a sample draws of its noise is x_T.
            watch = _Watch(module.draw_latents(count, self._noise(count)), most, module.to_uint8)
            module.sample(count, labels=labels, steps=self.steps, generator=self._noise(count), callback=watch)
        return watch.moments()

    def _noise(self, count: int) -> list[torch.Generator]:
        """Generators, one for each sample: the first ones are the same however many there are."""
        seeds = torch.Generator().manual_seed(self.seed)
        return [
            torch.Generator().manual_seed(seed) for seed in torch.randint(2**62, (count,), generator=seeds).tolist()
        ]

    def _labels(self, module: LightningModule, count: int) -> Tensor | None:
        if module.num_classes is None:
            return None
        classes = torch.tensor(spread(module.num_classes, count))
        return classes[torch.arange(count) % len(classes)]

    def _forward_process(self, module: LightningModule, images: Tensor) -> Tensor:
        """A row for each picture (N, C, H, W): itself, then itself at growing times; below, what is left of it."""
        schedule, x = module.schedule, images.to(module.device)
        times = torch.linspace(0, schedule.num_steps - 1, _COLUMNS).round().long().unique().tolist()
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(self.seed)).to(x)
        noisy = [schedule.add_noise(x, noise, torch.full((len(x),), t, device=x.device)) for t in times]
        columns = [as_pictures(module.to_uint8(pictures)) for pictures in (x, *noisy)]
        left = [f"{schedule.at(t)[0] ** 2:.2g}" for t in (-1, *times)]
        return picture_grid(
            list(zip(*columns, strict=True)),
            heads=["picture", *(f"t = {t}" for t in times)],
            title="the forward process, q(x_t | x_0); below, alpha bar: the picture's part in x_t's variance",
            captions=[()] * (len(x) - 1) + [left],
            smallest=_SMALLEST,
        )

    def _animate(self, trainer: Trainer, what: str) -> None:
        """Writes x_t beside the predicted pictures as ``trajectory.gif``."""
        if not self.grid:
            return
        moments = self._moments(trainer, self.grid**2, _FRAMES)
        frames = [
            torch.cat([picture_grid(x.split(self.grid), title=title) for x, title in pair], 2)
            for pair in (((moment.x, "x_t"), (moment.x0, "predicted x_0")) for moment in moments)
        ]
        path = self.folder / "pictures" / what / "trajectory.gif"
        path.parent.mkdir(parents=True, exist_ok=True)
        animate(frames, [moment.when for moment in moments], path, most_side=_WIDEST, colours=256)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_video(f"{what}_trajectory", [str(path)], steps_taken(trainer))


class _Watch:
    """Follows a sampler, told of each of its steps, which are the ``Step`` of ``samplers``.

    Args:
        x: x_T, before the first step.
        most: how many moments are kept.
        to_uint8: pictures of what a model draws.
    """

    def __init__(self, x: Tensor, most: int, to_uint8: Callable[[Tensor], Tensor]) -> None:
        self._x, self._most, self._to_uint8 = x, most, to_uint8
        self._kept: list[Moment] = []

    def __call__(self, step: Any) -> None:
        most = min(step.count, self._most)
        if step.index in [index * step.count // most for index in range(most)]:
            when = f"t = {step.t:.1f}".removesuffix(".0")
            self._kept.append(Moment(when, self._to_uint8(self._x), self._to_uint8(step.x0)))
        self._x = step.x

    def moments(self) -> list[Moment]:
        """What was kept, from noise to what was drawn; on the CPU."""
        drawn = self._to_uint8(self._x)
        return [
            Moment(when, as_pictures(x), as_pictures(x0)) for when, x, x0 in (*self._kept, Moment("x_0", drawn, drawn))
        ]


def strip(moments: Sequence[Moment], class_names: Sequence[str] | None, title: str) -> Tensor:
    """Two rows for each sample, one below the other: x_t, and the picture predicted from it.

    Args:
        moments: columns.
        class_names: of the samples; None: they have none.
        title: above all.
    """
    rows, names, captions = [], [], []
    for index in range(len(moments[0].x)):
        rows += [[moment.x[index] for moment in moments], [moment.x0[index] for moment in moments[:-1]]]
        names += ["x_t" if class_names is None else f"{class_names[index]}   x_t", "predicted x_0"]
        captions += [(), ("",)]  # room between two samples
    heads = [moment.when for moment in moments]
    return picture_grid(rows, names, heads, title, captions=[*captions[:-1], ()], smallest=_SMALLEST)
