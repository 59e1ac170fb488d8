"""TimestepLossLogger: error of a diffusion model by timestep, in every epoch."""

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FigureCallback, logged_step
from darkroom.callbacks.plotting.curves import curves
from darkroom.protocols import DiffusionModel

_MOST_EARLIER = 7  # curves behind the newest


class TimestepLossLogger(FigureCallback):
    """Plots the squared error of the predicted noise of validation images by timestep.

    The curves of earlier validations are behind it, paler. Times and noise are the same in every validation.

    A fit writes ``figures/loss_by_timestep/<step>.png``; ``validate`` and ``test`` plot one curve into
    ``figures/<stage>_loss_by_timestep``.

    Args:
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        num_images: approximate number of images, spread over the set, each at one time.
        bins: points of a curve; each is the mean over an equal range of times.
        seed: seed of times and noise.
    """

    needs = DiffusionModel
    supported = "DDPM"

    def __init__(self, every_n_validations: int = 1, num_images: int = 1000, bins: int = 20, seed: int = 0) -> None:
        super().__init__(every_n_validations)
        self._check_at_least_1(num_images=num_images, bins=bins)
        self.num_images, self.bins, self.seed = num_images, bins, seed
        self._generator = torch.Generator()
        self._times: list[Tensor] = []
        self._errors: list[Tensor] = []
        self._curves: dict[int, Tensor] = {}  # of a fit, by step

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "curves": self._curves}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._curves = state_dict["curves"]

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        """Compute the errors of some images of every batch, each at one time."""
        if not self._times:
            self._generator.manual_seed(self.seed)
        batches = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
        share = math.ceil(self.num_images / batches)  # from every batch, since data may be sorted by class
        model = self.require(pl_module, DiffusionModel)
        images, labels = batch["image"][:share], model.labels_of(batch)
        t = self._spread_times(len(images), model.schedule.num_steps)
        with trainer.precision_plugin.forward_context():
            errors = model.errors_at(
                images,
                t.to(images.device),
                labels=None if labels is None else labels[:share],
                generator=self._generator,
            )
        self._times.append(t)
        self._errors.append(errors)

    def _spread_times(self, count: int, num_steps: int) -> Tensor:
        """Sample times int64 (count,), one from each of ``count`` equal intervals, in random order."""
        place = torch.randperm(count, generator=self._generator) + torch.rand(count, generator=self._generator)
        return (place / count * num_steps).long().clamp(max=num_steps - 1)

    def log_figures(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plot the curve of this validation over the earlier ones of the fit and publish it."""
        times, errors, self._times, self._errors = self._times, self._errors, [], []
        if not times:
            return
        in_fit, step = trainer.state.fn == "fit", logged_step(trainer)
        num_steps = self.require(pl_module, DiffusionModel).schedule.num_steps
        curve = self._average_by_time(torch.cat(times), torch.cat(errors).float().cpu(), num_steps)
        earlier = {at: old for at, old in self._curves.items() if at < step} if in_fit else {}
        if in_fit:
            self._curves = {**earlier, step: curve}
        chosen = torch.linspace(0, len(earlier) - 1, min(len(earlier), _MOST_EARLIER)).round().long().tolist()
        plotted = {at: earlier[at] for at in (list(earlier)[index] for index in chosen)} | {step: curve}
        figure = curves(
            list(plotted.values()),
            [f"step {at}" for at in plotted],
            "loss by timestep",
            ("t", "squared error of the noise"),
            log_y=True,
            history=True,
        )
        self.publish(trainer, "loss_by_timestep" if in_fit else f"{stage}_loss_by_timestep", figure)

    def _average_by_time(self, times: Tensor, errors: Tensor, num_steps: int) -> Tensor:
        """Return points (bins, 2): the middle of each bin and the mean error in it, nan for an empty bin."""
        bins = times * self.bins // num_steps
        count = torch.bincount(bins, minlength=self.bins)
        total = torch.bincount(bins, errors.double(), minlength=self.bins)
        middles = (torch.arange(self.bins) + 0.5) / self.bins * num_steps
        return torch.stack([middles, (total / count).float()], 1)
