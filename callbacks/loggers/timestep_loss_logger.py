"""TimestepLossLogger: at which noise a diffusion model errs, and where it still learns."""

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import PeriodicPictures, steps_taken
from darkroom.callbacks.plotting.curves import curves

_MOST_EARLIER = 7  # curves behind the newest


class TimestepLossLogger(PeriodicPictures):
    """Draws the squared error of the predicted noise over the time, of validation pictures, with the curves of earlier
    validations paler behind it. Times and noise are the same in every validation.

    A fit leaves ``pictures/loss_by_timestep/<step>.png``; ``validate`` and ``test`` draw one curve into
    ``pictures/<stage>_loss_by_timestep``.

    Args:
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        num_pictures: about how many pictures are used, spread over the set, each at one time.
        bins: points of a curve; each is the mean over an equal part of the times.
        seed: decides times and noise.
    """

    methods = ("errors_at", "labels_of")
    techniques = "DDPM"

    def __init__(self, every_n_validations: int = 1, num_pictures: int = 1000, bins: int = 20, seed: int = 0) -> None:
        super().__init__(every_n_validations)
        self._at_least_1(num_pictures=num_pictures, bins=bins)
        self.num_pictures, self.bins, self.seed = num_pictures, bins, seed
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
        if not self._times:
            self._generator.manual_seed(self.seed)
        batches = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
        share = math.ceil(self.num_pictures / batches)  # of every batch: data may be sorted by class
        images, labels = batch["image"][:share], pl_module.labels_of(batch)
        t = self._spread_times(len(images), pl_module.schedule.num_steps)
        with trainer.precision_plugin.forward_context():
            errors = pl_module.errors_at(
                images,
                t.to(images.device),
                labels=None if labels is None else labels[:share],
                generator=self._generator,
            )
        self._times.append(t)
        self._errors.append(errors)

    def _spread_times(self, count: int, num_steps: int) -> Tensor:
        """Times int64 (count,), each from another one of so many equal parts of them all, in no order."""
        place = torch.randperm(count, generator=self._generator) + torch.rand(count, generator=self._generator)
        return (place / count * num_steps).long().clamp(max=num_steps - 1)

    def draw_all(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        times, errors, self._times, self._errors = self._times, self._errors, [], []
        if not times:
            return
        fitting, step = trainer.state.fn == "fit", steps_taken(trainer)
        curve = self._binned(torch.cat(times), torch.cat(errors).float().cpu(), pl_module.schedule.num_steps)
        earlier = {at: old for at, old in self._curves.items() if at < step} if fitting else {}
        if fitting:
            self._curves = {**earlier, step: curve}
        chosen = torch.linspace(0, len(earlier) - 1, min(len(earlier), _MOST_EARLIER)).round().long().tolist()
        shown = {at: earlier[at] for at in (list(earlier)[index] for index in chosen)} | {step: curve}
        sheet = curves(
            list(shown.values()),
            [f"step {at}" for at in shown],
            "loss by timestep",
            ("t", "squared error of the noise"),
            log_y=True,
            history=True,
        )
        self.publish(trainer, "loss_by_timestep" if fitting else f"{stage}_loss_by_timestep", sheet)

    def _binned(self, times: Tensor, errors: Tensor, num_steps: int) -> Tensor:
        """Points (bins, 2): the middle of each part of the times, and the mean error there; nan where there is none."""
        bins = times * self.bins // num_steps
        count = torch.bincount(bins, minlength=self.bins)
        total = torch.bincount(bins, errors.double(), minlength=self.bins)
        middles = (torch.arange(self.bins) + 0.5) / self.bins * num_steps
        return torch.stack([middles, (total / count).float()], 1)
