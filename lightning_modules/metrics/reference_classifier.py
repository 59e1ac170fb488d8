"""ReferenceClassifier: a small network, trained on the data set itself, whose features replace Inception's offline."""

from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.classifier_cache import load_or_train
from darkroom.lightning_modules.metrics.feature_network import ClassifyingFeatureNetwork
from darkroom.protocols import (
    BatchedDataset,
    FileDataset,
    LabelDataset,
    LabelledData,
    OpensDatasets,
    SizedDataset,
    TargetDataset,
)

_RECIPE = 2  # must change with network and training: files of another recipe are not found
_WIDTHS = (16, 32, 32, 48)
_SIDE = 64  # pixels; a longer side is scaled down to it
_SAMPLES, _HELD_OUT = 20_000, 2_000  # images for training and for the accuracy
_SEEN, _EPOCHS, _BATCH = 80_000, 60, 100  # images in training, largest number of epochs, batch size


class ReferenceClassifier(ClassifyingFeatureNetwork):
    """Convolutional classifier whose features define a space in which sets of images are compared.

    The features are the channels of all four stages, averaged over the image and standardized over the data set. Deep
    channels depend on classes, shallow ones on colour, contrast and noise, to which the last layer is invariant. Unit
    variance gives all stages the same weight, and makes distances independent of the scale of the weights.

    Args:
        channels: of the images, which may have any size; those with a side over 64 pixels are scaled down to it.
        num_classes: K.
    """

    num_features = sum(_WIDTHS)
    prefix = "cnn_"

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
        # The large eps prevents amplifying channels that are nearly constant over the data set.
        self.standardise = nn.BatchNorm1d(self.num_features, affine=False, eps=1e-3)
        self.classify = nn.Linear(self.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Compute features of images, uint8 (B, C, H, W) -> float32 (B, num_features)."""
        x = limit_size(images).float() / 127.5 - 1
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean((2, 3)))
        return self.standardise(torch.cat(means, 1))

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (B, K) of features (B, num_features)."""
        return self.classify(features)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, K) of images, uint8 (B, C, H, W)."""
        return self.logits(self.features(images))


def limit_size(images: Tensor, longest: int = _SIDE) -> Tensor:
    """Scale images (B, C, H, W) uint8 down until no side is longer than this, in pixels."""
    factor = longest / max(images.shape[-2:])
    if factor >= 1:
        return images
    size = [max(1, round(side * factor)) for side in images.shape[-2:]]
    small = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def load_or_train_classifier(
    datamodule: object, cache_dir: str | Path | None = None
) -> tuple[ReferenceClassifier, float]:
    """Return the classifier of a data set and its accuracy on held-out training images, in [0, 1].

    It is trained once, within minutes, and cached in a file; see ``load_or_train``.

    Args:
        datamodule: its images must have one size.
        cache_dir: folder of the file; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: the data have no labels, or the folder cannot be written.
    """
    if not isinstance(datamodule, LabelledData):
        raise UsageError(f"model.scores with features cnn needs data with labels; {type(datamodule).__name__} has none")
    dataset = datamodule.open_dataset("train") if isinstance(datamodule, OpensDatasets) else datamodule.dataset("train")
    if "label" not in dataset[0] or datamodule.num_classes < 2:
        raise UsageError(
            f"model.scores with features cnn trains a classifier, but {type(datamodule).__name__} has no labels of at "
            "least two classes; set model.scores.features to mobilenet or inception, or model.scores to null"
        )
    channels, classes = datamodule.image_shape[0], datamodule.num_classes
    return load_or_train(
        lambda: ReferenceClassifier(channels, classes),
        lambda: _fingerprint(dataset, classes),
        lambda classifier: _train(classifier, dataset),
        cache_dir,
    )


def _fingerprint(dataset: SizedDataset, classes: int) -> str:
    """Hash the recipe, 256 sample images, and all labels and file names that are in memory."""
    count = len(dataset)
    images, labels = _read_images(dataset, np.unique(np.linspace(0, count - 1, 256).astype(int)))
    digest = blake2b(repr((_RECIPE, tuple(dataset[0]["image"].shape), classes, count)).encode(), digest_size=16)
    for values in (images, _all_labels(dataset, labels).long()):
        digest.update(values.contiguous().numpy().data)
    paths = dataset.paths if isinstance(dataset, FileDataset) else ()
    digest.update(repr([Path(path).name for path in paths]).encode())
    return digest.hexdigest()


def _all_labels(dataset: SizedDataset, default: Tensor) -> Tensor:
    """Return all labels of a data set if they are in memory, else the default."""
    if isinstance(dataset, LabelDataset):
        return torch.as_tensor(dataset.labels)
    return torch.as_tensor(dataset.targets) if isinstance(dataset, TargetDataset) else default


def _read_images(dataset: SizedDataset, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """Read images, uint8 (N, C, H, W) with no side over 64 pixels, and labels, int64 (N,)."""
    batches = []
    for start in range(0, len(indices), 256):
        chunk = indices[start : start + 256].tolist()
        samples: dict[str, Any] | list[dict[str, Any]]
        if isinstance(dataset, BatchedDataset):
            samples = dataset.__getitems__(chunk)
        else:
            samples = [dataset[index] for index in chunk]
        if not isinstance(samples, dict):
            samples = {
                "image": torch.stack([sample["image"].as_subclass(Tensor) for sample in samples]),
                "label": torch.tensor([int(sample["label"]) for sample in samples]),
            }
        batches.append((limit_size(samples["image"]), torch.as_tensor(samples["label"]).long()))
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def _train(classifier: ReferenceClassifier, dataset: SizedDataset) -> float:
    """Train with AdamW and a one-cycle learning rate; return the accuracy on a tenth of the images, at most 2000."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(dataset), generator=generator)[: _SAMPLES + _HELD_OUT].numpy()
    held_out = min(_HELD_OUT, len(chosen) // 10)
    images, labels = _read_images(dataset, chosen)
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
    """Compute the fraction of images that are classified correctly; nan for no images."""
    hits = [classifier(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return torch.cat(hits).float().mean().item()
