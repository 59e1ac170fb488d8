"""ReferenceClassifier: a small network, trained on the data set itself, whose features judge drawn pictures offline."""

from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.classifier_cache import kept_or_trained

_RECIPE = 2  # changes whenever network or training do: files of another recipe are not found
_WIDTHS = (16, 32, 32, 48)
_SIDE = 64  # pixels; a longer side is scaled down to it
_SAMPLES, _HELD_OUT = 20_000, 2_000  # pictures to learn from, and to be judged on
_SEEN, _EPOCHS, _BATCH = 80_000, 60, 100  # pictures seen in training, in so many epochs at most


class ReferenceClassifier(nn.Module):
    """A convolutional classifier, and a feature space in which sets of pictures are compared.

    Its features are the channels of all four stages, averaged over the picture and standardised over the data set. The deep
    ones know classes; the shallow ones know colour, contrast and noise, to which a classifier's last layer grows blind.
    With unit variance no stage outweighs the others, and the scale of a distance does not depend on that of the weights.

    Args:
        channels: of the pictures, which may have any size; those with a side over 64 pixels are scaled down to it.
        num_classes: K.
    """

    num_features = sum(_WIDTHS)

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = (channels, *_WIDTHS)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=1 if index == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
            for index, (before, after) in enumerate(pairwise(widths))
        )
        # A channel that hardly varies over the data set is not blown up to unit variance: hence the large eps.
        self.standardise = nn.BatchNorm1d(self.num_features, affine=False, eps=1e-3)
        self.classify = nn.Linear(self.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Pictures, uint8 (B, C, H, W) -> float32 (B, num_features)."""
        x = reduced(images).float() / 127.5 - 1
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean((2, 3)))
        return self.standardise(torch.cat(means, 1))

    def logits(self, features: Tensor) -> Tensor:
        """Features (B, num_features) -> logits (B, K)."""
        return self.classify(features)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures, uint8 (B, C, H, W) -> logits (B, K)."""
        return self.logits(self.features(images))


def reduced(images: Tensor, longest: int = _SIDE) -> Tensor:
    """Pictures (B, C, H, W) uint8, scaled down until no side is longer, in pixels."""
    factor = longest / max(images.shape[-2:])
    if factor >= 1:
        return images
    size = [max(1, round(side * factor)) for side in images.shape[-2:]]
    small = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def trained_classifier(datamodule: Any, cache_dir: str | Path | None = None) -> tuple[ReferenceClassifier, float]:
    """The classifier of a data set and its accuracy on training pictures it was not trained on, in [0, 1].

    Trained once, within minutes, and kept in a file; see ``kept_or_trained``.

    Args:
        datamodule: has ``dataset("train")``, a map-style data set of dicts with ``image`` uint8 (C, H, W), all of one size,
            and ``label``; ``image_shape`` and ``num_classes``.
        cache_dir: folder of the file; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: the data have no labels, or the folder cannot be written.
    """
    dataset = getattr(datamodule, "open_dataset", datamodule.dataset)("train")
    if "label" not in dataset[0] or datamodule.num_classes < 2:
        raise UsageError(
            f"model.scores with features cnn trains a classifier, but {type(datamodule).__name__} has no labels of two or "
            "more classes; set model.scores.features to inception, or model.scores to null"
        )
    channels, classes = datamodule.image_shape[0], datamodule.num_classes
    return kept_or_trained(
        lambda: ReferenceClassifier(channels, classes),
        lambda: _fingerprint(dataset, classes),
        lambda classifier: _train(classifier, dataset),
        cache_dir,
    )


def _fingerprint(dataset: Dataset, classes: int) -> str:
    """Names recipe and data: 256 pictures speak for all; labels and names of files count all, where they lie ready."""
    count = len(dataset)
    images, labels = _pictures(dataset, np.unique(np.linspace(0, count - 1, 256).astype(int)))
    digest = blake2b(repr((_RECIPE, tuple(dataset[0]["image"].shape), classes, count)).encode(), digest_size=16)
    every = getattr(dataset, "labels", getattr(dataset, "targets", labels))
    for values in (images, torch.as_tensor(every).long()):
        digest.update(values.contiguous().numpy())
    digest.update(repr([Path(path).name for path in getattr(dataset, "paths", ())]).encode())
    return digest.hexdigest()


def _pictures(dataset: Dataset, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pictures, uint8 (N, C, H, W) with no side over 64 pixels, and labels, int64 (N,)."""
    batches = []
    for start in range(0, len(indices), 256):
        chunk = indices[start : start + 256].tolist()
        many = getattr(dataset, "__getitems__", None)
        samples = many(chunk) if many else [dataset[index] for index in chunk]
        if not isinstance(samples, dict):
            samples = {
                "image": torch.stack([sample["image"].as_subclass(Tensor) for sample in samples]),
                "label": torch.tensor([int(sample["label"]) for sample in samples]),
            }
        batches.append((reduced(samples["image"]), torch.as_tensor(samples["label"]).long()))
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def _train(classifier: ReferenceClassifier, dataset: Dataset) -> float:
    """Trains with AdamW and one cycle of the learning rate; the accuracy on every tenth picture, 2000 at most."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(dataset), generator=generator)[: _SAMPLES + _HELD_OUT].numpy()
    held_out = min(_HELD_OUT, len(chosen) // 10)
    images, labels = _pictures(dataset, chosen)
    test, train = slice(0, held_out), slice(held_out, None)
    count = len(labels) - held_out
    batches = max(1, count // _BATCH)
    epochs = min(_EPOCHS, max(1, round(_SEEN / count)))
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=epochs * batches)
    x, y = images[train], labels[train]
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        for batch in order.tensor_split(batches):
            optimizer.zero_grad()
            F.cross_entropy(classifier(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return _accuracy(classifier.eval(), images[test], labels[test])


@torch.no_grad()
def _accuracy(classifier: ReferenceClassifier, images: Tensor, labels: Tensor) -> float:
    """Part of the pictures whose class is found; nan for none."""
    hits = [classifier(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return torch.cat(hits).float().mean().item()
