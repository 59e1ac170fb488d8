"""LatentSpaceLogger: what a latent space holds: its manifold, its dimensions, ways through it, where pictures lie in it."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import PeriodicPictures
from darkroom.callbacks.plotting.grids import as_pictures, picture_grid
from darkroom.callbacks.plotting.latent_views import activity, encodings, manifold, manifold_of_classes, traversals
from darkroom.errors import UsageError

_DRAWS = 10_000  # of the prior: what its quantiles are read from
_CHUNK = 128  # pictures decoded at once
_CANDIDATES = 64  # pictures kept to choose pairs from
_STEPS = 9  # of an interpolation
_MOST_CLASSES = 16

Sample = tuple[Tensor, Tensor | None]  # image as the network sees it, label


class LatentSpaceLogger(PeriodicPictures):
    """Draws four views of a latent space: manifold, traversals, interpolations and where pictures lie.

    A fit leaves them as ``pictures/<view>/<step>.png``, ``validate`` and ``test`` as
    ``pictures/<stage>_<view>/<step>.png``.

    ``manifold``: what two dimensions decode to at evenly spaced quantiles of the prior (Kingma and Welling 2014, appendix
    A, figure 4): both, where there are two, else the most active ones, whose encodings vary most, with the others as in
    the first validation picture. Of a conditional technique, one dimension in columns and the classes in rows.

    ``traversals``: one validation picture with one dimension at a time, the most active first, from -3 to 3 standard
    deviations of the prior.

    ``interpolations``: straight ways between validation pictures, which stand at their ends; of a conditional technique,
    between pictures of one class.

    ``latents``: encodings of validation pictures in the colours of their classes; of more than two dimensions, their two
    principal components.

    Args:
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        num_points: about how many pictures are encoded, spread over the set.
        grid: pictures on each side of the manifold.
        num_dimensions: at most so many are traversed.
        num_pairs: at most so many interpolations.
        scatter: draw ``latents``. False: no more pictures are encoded than the other views need. None: unless the
            technique ``encodes_by_search``, one picture taking as long as an epoch of them elsewhere.
    """

    methods = ("encode", "decode", "interpolate", "draw_latents", "labels_of", "to_uint8")

    def __init__(
        self,
        every_n_validations: int = 1,
        num_points: int = 2000,
        grid: int = 16,
        num_dimensions: int = 10,
        num_pairs: int = 5,
        scatter: bool | None = None,
    ) -> None:
        super().__init__(every_n_validations)
        self._at_least_1(num_points=num_points, grid=grid, num_dimensions=num_dimensions, num_pairs=num_pairs)
        self.num_points, self.grid, self.num_dimensions = num_points, grid, num_dimensions
        self.num_pairs, self.scatter = num_pairs, scatter
        self._codes: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._samples: list[Sample] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        shape = pl_module.draw_latents(1, torch.Generator()).shape[1:]
        if len(shape) != 1:
            raise UsageError(
                f"LatentSpaceLogger draws latents that are vectors; those of {type(pl_module).__name__} have the shape "
                f"{tuple(shape)}: leave it out"
            )

    def _scatters(self, module: LightningModule) -> bool:
        return not getattr(module, "encodes_by_search", False) if self.scatter is None else self.scatter

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        batches = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
        images, labels = batch["image"], pl_module.labels_of(batch)
        some = min(math.ceil(_CANDIDATES / batches), _CANDIDATES - len(self._samples))
        kept = [None] * len(images) if labels is None else labels.cpu()
        self._samples += zip(images[:some].cpu(), kept[:some], strict=True)
        if self._scatters(pl_module):
            share = math.ceil(self.num_points / batches)  # of every batch: data may be sorted by class
            self._codes.append(self._encode(trainer, images[:share], None if labels is None else labels[:share]))
            self._labels += [batch["label"][:share].cpu()] if "label" in batch else []

    def draw_all(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        samples, codes, labels = self._samples, self._codes, self._labels
        self._samples, self._codes, self._labels = [], [], []
        if not samples:
            return
        names = trainer.datamodule.class_names
        first = samples[: 2 * self.num_pairs]
        starts = self._encode(trainer, *_stacked(first))
        codes = torch.cat(codes) if codes else starts
        prior = pl_module.draw_latents(_DRAWS, torch.Generator().manual_seed(0)).float().cpu()
        decode, active = partial(self._decode, trainer), activity(codes)
        order = active.argsort(descending=True, stable=True).tolist()

        if pl_module.num_classes is None:
            two = order[:2] if len(order) > 2 else sorted(order)
            views = {"manifold": manifold(decode, prior, starts[0], two, self.grid)}
        else:
            shown = names[: min(pl_module.num_classes, _MOST_CLASSES)]
            views = {"manifold": manifold_of_classes(decode, prior, starts[0], order[0], self.grid, shown)}
        moved = order[: self.num_dimensions]
        picture = as_pictures(pl_module.to_uint8(samples[0][0][None]))[0]
        views["traversals"] = traversals(decode, prior, starts[0], samples[0][1], moved, active, picture)
        pairs = _pairs(samples)[: self.num_pairs]
        if pairs:
            views["interpolations"] = self._interpolations(trainer, pairs, names)
        sound = codes.isfinite().all(1)
        if self._scatters(pl_module) and sound.any():
            views["latents"] = encodings(codes[sound], torch.cat(labels)[sound] if labels else None, names)
        for view, sheet in views.items():
            self.publish(trainer, view if trainer.state.fn == "fit" else f"{stage}_{view}", sheet)

    def _encode(self, trainer: Trainer, images: Tensor, labels: Tensor | None) -> Tensor:
        """Codes float32 (N, D), on the CPU."""
        module = trainer.lightning_module
        labels = None if labels is None else labels.to(module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            return module.encode(images.to(module.device), labels=labels).float().cpu()

    def _decode(self, trainer: Trainer, codes: Tensor, labels: Tensor | None) -> Tensor:
        """Pictures uint8 (N, 3, H, W) of codes."""
        module = trainer.lightning_module
        pictures = []
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for some in torch.arange(len(codes)).split(_CHUNK):
                of = None if labels is None else labels[some].to(module.device)
                pictures.append(as_pictures(module.to_uint8(module.decode(codes[some].to(module.device), labels=of))))
        return torch.cat(pictures)

    def _interpolations(
        self, trainer: Trainer, pairs: list[tuple[Sample, Sample]], class_names: Sequence[str]
    ) -> Tensor:
        """A row for each pair: the first picture, the way between their encodings, the second picture."""
        module = trainer.lightning_module
        (a, labels), (b, _) = (_stacked(samples) for samples in zip(*pairs, strict=True))
        a, b = a.to(module.device), b.to(module.device)
        with trainer.precision_plugin.forward_context():
            ways = module.interpolate(a, b, _STEPS, labels=None if labels is None else labels.to(module.device))
        rows = torch.cat([a[:, None], ways.to(a), b[:, None]], 1)
        pictures = as_pictures(module.to_uint8(rows.flatten(0, 1))).split(_STEPS + 2)
        names = () if labels is None else [class_names[label] for label in labels.tolist()]
        heads = ["from", *[""] * _STEPS, "to"]
        return picture_grid(pictures, names, heads, "straight through the latent space, from picture to picture")


def _stacked(samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
    """Images and, if they have any, labels as batches."""
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), None if labels[0] is None else torch.stack(labels)


def _pairs(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Pictures two by two, in order; with labels, of one class, since one label serves the whole way."""
    waiting: dict[int | None, Sample] = {}
    pairs = []
    for sample in samples:
        label = None if sample[1] is None else int(sample[1])
        if label in waiting:
            pairs.append((waiting.pop(label), sample))
        else:
            waiting[label] = sample
    return pairs
