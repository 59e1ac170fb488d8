"""AttributeJudge: a small network that predicts the attributes in captions from images, trained on the data set itself."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.classifier_cache import load_or_train
from darkroom.lightning_modules.metrics.feature_network import FeatureNetwork
from darkroom.lightning_modules.metrics.reference_classifier import limit_size
from darkroom.protocols import AttributeData, BatchedDataset, NamesAttributes
from darkroom.runtime.lightning_compat import datamodule_of

_RECIPE = 1  # must change with network and training: files of another recipe are not found
_WIDTHS = (32, 48, 64, 64, 96)
_STRIDES = {True: (1, 2, 1, 2, 1), False: (2, 2, 1, 2, 1)}  # of small images, and of others
_SMALL, _LARGEST = 16, 32  # pixels; a longer side is scaled down to the latter
_MAP, _HIDDEN = 4, 192  # side of the last map, and width of the layer on it
_SEEN, _BATCH = 150_000, 100  # number of training images, each used once
_HELD_OUT = 2_000  # number of images for the accuracy


class AttributeJudge(FeatureNetwork):
    """Convolutional network with logits for every attribute, whose features define a space in which sets are compared.

    Logits are computed from the whole last map, since positions of objects are lost in an average over the image. The
    features are the channels of all stages, averaged and standardized, as those of ReferenceClassifier.

    Args:
        channels: of the images.
        side: of the images, in pixels, at least 8; those over 32 are scaled down.
        sizes: the number of values of each attribute.
    """

    num_features = sum(_WIDTHS)
    prefix = "cnn_"

    def __init__(self, channels: int, side: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for (before, after), stride in zip(pairwise((channels, *_WIDTHS)), _STRIDES[side <= _SMALL], strict=True)
        )
        # The large eps prevents amplifying channels that are nearly constant over the data set.
        self.standardise = nn.BatchNorm1d(self.num_features, affine=False, eps=1e-3)
        self.answer = nn.Sequential(
            nn.AdaptiveAvgPool2d(_MAP),
            nn.Flatten(),
            nn.Linear(_WIDTHS[-1] * _MAP**2, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, sum(self.sizes)),
        )

    def features(self, images: Tensor) -> Tensor:
        """Compute features of images, uint8 (B, C, H, W) -> float32 (B, num_features)."""
        return self._read(images)[0]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute logits (B, size) of each attribute, of images uint8 (B, C, H, W)."""
        return self._read(images)[1]

    def attributes(self, images: Tensor) -> Tensor:
        """Predict attributes int64 (B, A) of images, uint8 (B, C, H, W)."""
        return torch.stack([logits.argmax(1) for logits in self(images)], 1)

    def _read(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute features and logits."""
        x, means = limit_size(images, _LARGEST).float() / 127.5 - 1, []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean((2, 3)))
        return self.standardise(torch.cat(means, 1)), self.answer(x).split(self.sizes, 1)


def match_attributes(predicted: Tensor, stated: Tensor) -> Tensor:
    """Compare predicted attributes with those of captions: bool (B, A), True also where a caption states none.

    Args:
        predicted: int64 (B, A).
        stated: int64 (B, A), -1 where the caption states none.
    """
    return (predicted == stated) | (stated < 0)


def load_or_train_judge(
    datamodule: object, cache_dir: str | Path | None = None
) -> tuple[AttributeJudge, dict[str, float]]:
    """Return the judge of a data set and its accuracy on held-out images, in [0, 1], for each attribute by name and for all
    attributes together as ``all``.

    It is trained once, in about two minutes, and cached in a file; see ``load_or_train``.

    Args:
        datamodule: must be ``AttributeData``.
        cache_dir: folder of the file; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: the data have no attributes, or the folder cannot be written.
    """
    if not isinstance(datamodule, AttributeData):
        raise UsageError(
            f"model.scores needs data with attributes to train a judge, but {type(datamodule).__name__} has no attributes; "
            "set model.scores.accuracy to false and model.scores.features to mobilenet or inception, or model.scores to "
            "null"
        )
    dataset = datamodule.judging_dataset(_HELD_OUT + _SEEN)
    (channels, *sides), sizes = datamodule.image_shape, tuple(datamodule.attribute_sizes)
    return load_or_train(
        lambda: AttributeJudge(channels, max(sides), sizes),
        lambda: _fingerprint(dataset, sizes),
        lambda judge: _train(judge, dataset, datamodule.attribute_names),
        cache_dir,
    )


def judge_for(module: LightningModule, cache_dir: str | None) -> tuple[AttributeJudge, tuple[str, ...]]:
    """Return the judge of the data of a module's Trainer, and the names of its attributes.

    Raises:
        UsageError: the datamodule is missing, or its data have no attributes.
    """
    datamodule = datamodule_of(module.trainer)
    if datamodule is None:
        raise UsageError(
            "model.scores needs a datamodule, on which it trains a judge; pass one to the Trainer, or set "
            "model.scores.accuracy to false and model.scores.features to mobilenet or inception"
        )
    judge, _ = load_or_train_judge(datamodule, cache_dir)
    assert isinstance(datamodule, NamesAttributes)  # others raised an error above
    return judge, tuple(datamodule.attribute_names)


def _read_batch(dataset: BatchedDataset, indices: Sequence[int]) -> dict[str, Tensor]:
    batch = dataset.__getitems__(indices)
    assert isinstance(batch, dict), "a judging_dataset returns whole batches"
    return batch


def _fingerprint(dataset: BatchedDataset, sizes: Sequence[int]) -> str:
    """Hash the recipe and 256 sample images."""
    batch = _read_batch(dataset, range(256))
    digest = blake2b(
        repr(("judge", _RECIPE, _WIDTHS, _SEEN, tuple(batch["image"].shape), sizes)).encode(), digest_size=16
    )
    for values in (batch["image"], batch["attributes"]):
        digest.update(values.contiguous().numpy().data)
    return digest.hexdigest()


def _train(judge: AttributeJudge, dataset: BatchedDataset, names: Sequence[str]) -> dict[str, float]:
    """Train with AdamW and a one-cycle learning rate; return the accuracy on the first 2000 images, which are held out."""
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
    starts = range(_HELD_OUT, _HELD_OUT + _SEEN, _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.005, total_steps=len(starts))
    for start in starts:
        batch = _read_batch(dataset, range(start, start + _BATCH))
        logits = judge(batch["image"].contiguous(memory_format=torch.channels_last))
        losses = [
            F.cross_entropy(one, truth, ignore_index=-1, reduction="sum") / _BATCH
            for one, truth in zip(logits, batch["attributes"].T, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
    return _accuracy(judge.eval(), dataset, names)


@torch.no_grad()
def _accuracy(judge: AttributeJudge, dataset: BatchedDataset, names: Sequence[str]) -> dict[str, float]:
    """Compute the fractions of held-out images in which an attribute is predicted correctly, and in which all are."""
    batches = [_read_batch(dataset, range(start, start + _BATCH)) for start in range(0, _HELD_OUT, _BATCH)]
    truth = torch.cat([batch["attributes"] for batch in batches])
    right = match_attributes(torch.cat([judge.attributes(batch["image"]) for batch in batches]), truth)
    parts = {"all": right.all(1).float().mean().item()}
    for name, hits, meant in zip(names, right.T, truth.T >= 0, strict=True):
        if meant.any():
            parts[name] = hits[meant].float().mean().item()
    return parts
