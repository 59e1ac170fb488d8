"""SampleLogger: samples from the same noise in every epoch, and an animation of all epochs."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from darkroom.callbacks.base import FigureCallback, logged_step
from darkroom.callbacks.plotting.animation import animate
from darkroom.callbacks.plotting.grids import TITLE, expand_to_rgb, image_grid, near_square
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.protocols import SamplingModel

_MOST_CLASSES = _MOST_COLUMNS = 16


class SampleLogger(FigureCallback):
    """Samples from the same noise after every validation, to show progress.

    A conditional model has a row per class, for at most the first 16 classes. torch's global random state is unchanged.

    A fit writes ``figures/samples/<step>.png`` and, when it ends, ``figures/samples/progress.gif`` of all steps in the run
    folder, including those before a resume. ``validate`` and ``test`` write to ``figures/<stage>_samples``.

    Args:
        num_samples: number of samples; with classes an upper bound, equal for each class.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        seed: seed of the noise.
        animation: write the animation.
    """

    needs: ClassVar[type | None] = SamplingModel

    def __init__(
        self, num_samples: int = 64, every_n_validations: int = 1, seed: int = 0, animation: bool = True
    ) -> None:
        super().__init__(every_n_validations)
        self._check_at_least_1(num_samples=num_samples)
        self.num_samples, self.seed, self.animation = num_samples, seed, animation

    def log_figures(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Publish the figure of samples."""
        figure = self.draw(trainer, pl_module, self.data(trainer).class_names)
        self.publish(trainer, "samples" if trainer.state.fn == "fit" else f"{stage}_samples", figure)

    def draw(self, trainer: Trainer, module: LightningModule, class_names: Sequence[str]) -> ImagePage:
        """Return the figure of samples."""
        model = self.require(module, SamplingModel)
        labels: Tensor | None = None
        names: list[str] = []
        count, columns = self.num_samples, near_square(self.num_samples)
        if model.num_classes is not None:
            rows = min(model.num_classes, _MOST_CLASSES, self.num_samples)
            columns = min(_MOST_COLUMNS, self.num_samples // rows)
            labels = torch.arange(rows).repeat_interleave(columns)
            names, count = list(class_names[:rows]), len(labels)
        noise = torch.Generator().manual_seed(self.seed)
        with trainer.precision_plugin.forward_context():
            images = expand_to_rgb(model.to_uint8(model.sample(count, labels=labels, generator=noise)))
        return image_grid(images.split(columns), names, title=f"step {logged_step(trainer)}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.animation and trainer.is_global_zero:
            publish_progress(trainer, self.folder / "figures" / "samples")


def publish_progress(trainer: Trainer, folder: Path, most_side: int = 400) -> None:
    """Write ``progress.gif`` of the figures in one folder of a run, if there are at least two.

    Args:
        trainer: Trainer of the fit that has ended; figures after its step belong to another fit and are omitted.
        folder: ``figures/<what>``.
        most_side: longer side of the animation in pixels.
    """
    step = logged_step(trainer)
    frames = [path for path in sorted(folder.glob("[0-9]*.png")) if int(path.stem) <= step]
    if len(frames) < 2:
        return
    path = folder / "progress.gif"
    animate(frames, [f"step {int(frame.stem)}" for frame in frames], path, most_side=most_side, skip=TITLE)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_video(f"{folder.name}_progress", [str(path)], step)
