"""LatentSpaceLogger: manifold, traversals, interpolations and encodings of a latent space."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FigureCallback
from darkroom.callbacks.plotting.drawing import Drawing
from darkroom.callbacks.plotting.grids import expand_to_rgb, image_grid
from darkroom.callbacks.plotting.latent_views import activity, encodings, manifold, manifold_of_classes, traversals
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.errors import UsageError
from darkroom.protocols import LatentModel, SearchingEncoder

_PRIOR_SAMPLES = 10_000  # from which quantiles are estimated
_CHUNK = 128  # images decoded at once
_CANDIDATES = 64  # images from which pairs are chosen
_STEPS = 9  # of an interpolation
_MOST_CLASSES = 16

Sample = tuple[Tensor, Tensor | None]  # normalized image, label


class LatentSpaceLogger(FigureCallback):
    """Shows four views of a latent space: manifold, traversals, interpolations and encodings.

    A fit writes them as ``figures/<view>/<step>.png``, ``validate`` and ``test`` as ``figures/<stage>_<view>/<step>.png``.

    ``manifold``: two dimensions decoded at evenly spaced quantiles of the prior (Kingma and Welling 2014, appendix A,
    figure 4). With more than two dimensions these are the most active ones, whose encodings vary most; the others keep the
    values of the first validation image. A conditional model has one dimension in columns and the classes in rows.

    ``traversals``: one validation image with one dimension at a time, the most active first, from -3 to 3 standard
    deviations of the prior.

    ``interpolations``: straight lines between the encodings of validation images, which are shown at both ends. With a
    conditional model both images have one class.

    ``latents``: encodings of validation images in the colours of their classes; their two principal components if there
    are more than two dimensions.

    Args:
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        num_points: approximate number of images that are encoded, spread over the set.
        grid: images on each side of the manifold.
        num_dimensions: maximum number of dimensions that are traversed.
        num_pairs: maximum number of interpolations.
        scatter: show ``latents``. False: only images that the other views need are encoded. None: True unless the model
            ``encodes_by_search``, where one image takes as long as an epoch of them elsewhere.
    """

    needs = LatentModel

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
        self._check_at_least_1(num_points=num_points, grid=grid, num_dimensions=num_dimensions, num_pairs=num_pairs)
        self.num_points, self.grid, self.num_dimensions = num_points, grid, num_dimensions
        self.num_pairs, self.scatter = num_pairs, scatter
        self._codes: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._samples: list[Sample] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        shape = self.require(pl_module, LatentModel).draw_latents(1, torch.Generator()).shape[1:]
        if len(shape) != 1:
            raise UsageError(
                f"LatentSpaceLogger needs latents that are vectors, but those of {type(pl_module).__name__} have the shape "
                f"{tuple(shape)}; remove the callback"
            )

    def _shows_encodings(self, module: LightningModule) -> bool:
        if self.scatter is not None:
            return self.scatter
        return not (isinstance(module, SearchingEncoder) and module.encodes_by_search)

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        """Save images of every batch, and their encodings if ``latents`` is shown."""
        batches = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
        images, labels = batch["image"], self.require(pl_module, LatentModel).labels_of(batch)
        some = min(math.ceil(_CANDIDATES / batches), _CANDIDATES - len(self._samples))
        firsts = [None] * len(images[:some]) if labels is None else labels[:some].cpu()
        self._samples += zip(images[:some].cpu(), firsts, strict=True)
        if self._shows_encodings(pl_module):
            share = math.ceil(self.num_points / batches)  # from every batch, since data may be sorted by class
            self._codes.append(self._encode(trainer, images[:share], None if labels is None else labels[:share]))
            self._labels += [batch["label"][:share].cpu()] if "label" in batch else []

    def log_figures(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Publish the views of the latent space."""
        samples, encoded, labels = self._samples, self._codes, self._labels
        self._samples, self._codes, self._labels = [], [], []
        if not samples:
            return
        model, names = self.require(pl_module, LatentModel), self.data(trainer).class_names
        first = samples[: 2 * self.num_pairs]
        starts = self._encode(trainer, *_stack(first))
        codes = torch.cat(encoded) if encoded else starts
        prior = model.draw_latents(_PRIOR_SAMPLES, torch.Generator().manual_seed(0)).float().cpu()
        decode, active = partial(self._decode, trainer), activity(codes)
        order = active.argsort(descending=True, stable=True).tolist()

        if model.num_classes is None:
            two = order[:2] if len(order) > 2 else sorted(order)
            views: dict[str, Drawing] = {"manifold": manifold(decode, prior, starts[0], two, self.grid)}
        else:
            rows = names[: min(model.num_classes, _MOST_CLASSES)]
            views = {"manifold": manifold_of_classes(decode, prior, starts[0], order[0], self.grid, rows)}
        moved = order[: self.num_dimensions]
        image = expand_to_rgb(model.to_uint8(samples[0][0][None]))[0]
        views["traversals"] = traversals(decode, prior, starts[0], samples[0][1], moved, active, image)
        pairs = _pairs(samples)[: self.num_pairs]
        if pairs:
            views["interpolations"] = self._interpolations(trainer, pairs, names)
        finite = codes.isfinite().all(1)
        if self._shows_encodings(pl_module) and finite.any():
            views["latents"] = encodings(codes[finite], torch.cat(labels)[finite] if labels else None, names)
        for view, figure in views.items():
            self.publish(trainer, view if trainer.state.fn == "fit" else f"{stage}_{view}", figure)

    def _encode(self, trainer: Trainer, images: Tensor, labels: Tensor | None) -> Tensor:
        """Encode images to float32 (N, D), on the CPU."""
        model = self.require(trainer.lightning_module, LatentModel)
        labels = None if labels is None else labels.to(model.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            return model.encode(images.to(model.device), labels=labels).float().cpu()

    def _decode(self, trainer: Trainer, codes: Tensor, labels: Tensor | None) -> Tensor:
        """Decode codes to images uint8 (N, 3, H, W)."""
        model = self.require(trainer.lightning_module, LatentModel)
        images = []
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for some in torch.arange(len(codes)).split(_CHUNK):
                of = None if labels is None else labels[some].to(model.device)
                images.append(expand_to_rgb(model.to_uint8(model.decode(codes[some].to(model.device), labels=of))))
        return torch.cat(images)

    def _interpolations(
        self, trainer: Trainer, pairs: list[tuple[Sample, Sample]], class_names: Sequence[str]
    ) -> ImagePage:
        """Draw a row for each pair: the first image, the interpolation, the second image."""
        model = self.require(trainer.lightning_module, LatentModel)
        (a, labels), (b, _) = (_stack(samples) for samples in zip(*pairs, strict=True))
        a, b = a.to(model.device), b.to(model.device)
        with trainer.precision_plugin.forward_context():
            between = model.interpolate(a, b, _STEPS, labels=None if labels is None else labels.to(model.device))
        rows = torch.cat([a[:, None], between.to(a), b[:, None]], 1)
        images = expand_to_rgb(model.to_uint8(rows.flatten(0, 1))).split(_STEPS + 2)
        names = () if labels is None else [class_names[label] for label in labels.tolist()]
        heads = ["from", *[""] * _STEPS, "to"]
        return image_grid(images, names, heads, "linear interpolation in the latent space, from image to image")


def _stack(samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
    """Stack images and, if they have any, labels to batches."""
    labels = [label for _, label in samples if label is not None]
    return torch.stack([image for image, _ in samples]), torch.stack(labels) if labels else None


def _pairs(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Pair images in order; with labels, images of one class, since an interpolation has one label."""
    waiting: dict[int | None, Sample] = {}
    pairs = []
    for sample in samples:
        label = None if sample[1] is None else int(sample[1])
        if label in waiting:
            pairs.append((waiting.pop(label), sample))
        else:
            waiting[label] = sample
    return pairs
