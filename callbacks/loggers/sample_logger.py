"""SampleLogger: what a technique draws from the same noise, epoch after epoch, and all of it as an animation."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from darkroom.callbacks.base import PeriodicPictures, steps_taken
from darkroom.callbacks.plotting.animation import animate
from darkroom.callbacks.plotting.grids import TITLE, as_pictures, near_square, picture_grid

_MOST_CLASSES = _MOST_COLUMNS = 16


class SampleLogger(PeriodicPictures):
    """Draws samples from the same noise after every validation, so that progress shows.

    Of a conditional technique a row per class, of the first 16 classes at most. It leaves torch's random numbers alone.

    A fit leaves ``pictures/samples/<step>.png`` and, when it ends, ``pictures/samples/progress.gif`` of all steps that the
    run's folder holds, before and after it was continued; ``validate`` and ``test`` draw into ``pictures/<stage>_samples``.

    Args:
        num_samples: how many samples; with classes, so many at most, as many of each.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        seed: decides the noise.
        animation: write the animation.
    """

    methods = ("sample", "to_uint8")
    arguments = ("n", "labels")

    def __init__(
        self, num_samples: int = 64, every_n_validations: int = 1, seed: int = 0, animation: bool = True
    ) -> None:
        super().__init__(every_n_validations)
        self._at_least_1(num_samples=num_samples)
        self.num_samples, self.seed, self.animation = num_samples, seed, animation

    def draw_all(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        fitting = trainer.state.fn == "fit"
        sheet = self.draw(trainer, pl_module, trainer.datamodule.class_names)
        self.publish(trainer, "samples" if fitting else f"{stage}_samples", sheet)

    def draw(self, trainer: Trainer, module: LightningModule, class_names: Sequence[str]) -> Tensor:
        """The sheet of samples."""
        labels, names, count, columns = None, [], self.num_samples, near_square(self.num_samples)
        if module.num_classes is not None:
            rows = min(module.num_classes, _MOST_CLASSES, self.num_samples)
            columns = min(_MOST_COLUMNS, self.num_samples // rows)
            labels = torch.arange(rows).repeat_interleave(columns)
            names, count = list(class_names[:rows]), len(labels)
        noise = torch.Generator().manual_seed(self.seed)
        with trainer.precision_plugin.forward_context():
            pictures = as_pictures(module.to_uint8(module.sample(count, labels=labels, generator=noise)))
        return picture_grid(pictures.split(columns), names, title=f"step {steps_taken(trainer)}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.animation and trainer.is_global_zero:
            publish_progress(trainer, self.folder / "pictures" / "samples")


def publish_progress(trainer: Trainer, folder: Path, most_side: int = 400) -> None:
    """Makes ``progress.gif`` of the sheets that a run has left in one of its folders of pictures, if there are two.

    Args:
        trainer: of the fit that has ended; sheets after its step are another one's.
        folder: ``pictures/<what>``.
        most_side: of the animation, in pixels.
    """
    step = steps_taken(trainer)
    frames = [path for path in sorted(folder.glob("[0-9]*.png")) if int(path.stem) <= step]
    if len(frames) < 2:
        return
    path = folder / "progress.gif"
    animate(frames, [f"step {int(frame.stem)}" for frame in frames], path, most_side=most_side, skip=TITLE)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_video(f"{folder.name}_progress", [str(path)], step)
