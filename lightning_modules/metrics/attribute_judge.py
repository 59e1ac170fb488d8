"""AttributeJudge: a small network that reads in a picture what a caption can say of it, trained on the data set itself."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.classifier_cache import kept_or_trained
from darkroom.lightning_modules.metrics.reference_classifier import reduced

_RECIPE = 1  # changes whenever network or training do: files of another recipe are not found
_WIDTHS = (32, 48, 64, 64, 96)
_STRIDES = {True: (1, 2, 1, 2, 1), False: (2, 2, 1, 2, 1)}  # of small pictures, and of others
_SMALL, _LARGEST = 16, 32  # pixels; a longer side is scaled down to the latter
_MAP, _HIDDEN = 4, 192  # side of the last map, and width of the layer on it
_SEEN, _BATCH = 150_000, 100  # pictures seen in training, each once
_HELD_OUT = 2_000  # pictures to be judged on


class AttributeJudge(nn.Module):
    """A convolutional network with an answer for every attribute, and a feature space in which sets are compared.

    Which object is the left one, and where it is, no average over the picture can tell: the answers come from the whole of
    the last map. The features are the channels of all stages, averaged and standardised, as those of ReferenceClassifier.

    Args:
        channels: of the pictures.
        side: of the pictures, in pixels, at least 8; those over 32 are scaled down.
        sizes: the number of values of each attribute.
    """

    num_features = sum(_WIDTHS)

    def __init__(self, channels: int, side: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for (before, after), stride in zip(pairwise((channels, *_WIDTHS)), _STRIDES[side <= _SMALL], strict=True)
        )
        # A channel that hardly varies over the data set is not blown up to unit variance: hence the large eps.
        self.standardise = nn.BatchNorm1d(self.num_features, affine=False, eps=1e-3)
        self.answer = nn.Sequential(
            nn.AdaptiveAvgPool2d(_MAP),
            nn.Flatten(),
            nn.Linear(_WIDTHS[-1] * _MAP**2, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, sum(self.sizes)),
        )

    def features(self, images: Tensor) -> Tensor:
        """Pictures, uint8 (B, C, H, W) -> float32 (B, num_features)."""
        return self._read(images)[0]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pictures, uint8 (B, C, H, W) -> for each attribute logits (B, its size)."""
        return self._read(images)[1]

    def attributes(self, images: Tensor) -> Tensor:
        """What is in the pictures, uint8 (B, C, H, W): int64 (B, A)."""
        return torch.stack([logits.argmax(1) for logits in self(images)], 1)

    def _read(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features and logits."""
        x, means = reduced(images, _LARGEST).float() / 127.5 - 1, []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean((2, 3)))
        return self.standardise(torch.cat(means, 1)), self.answer(x).split(self.sizes, 1)


def fulfilled(seen: Tensor, said: Tensor) -> Tensor:
    """Which attributes are as they should be: bool (B, A), True also where nothing is said.

    Args:
        seen: int64 (B, A).
        said: int64 (B, A), -1 where nothing is.
    """
    return (seen == said) | (said < 0)


def trained_judge(datamodule: Any, cache_dir: str | Path | None = None) -> tuple[AttributeJudge, dict[str, float]]:
    """The judge of a data set and its accuracy on pictures it was not trained on, in [0, 1], for each attribute by name and
    as ``all`` for all together.

    Trained once, in about two minutes, and kept in a file; see ``kept_or_trained``.

    Args:
        datamodule: has ``judging_dataset(length)``, a data set of ``image`` uint8 (C, H, W) and ``attributes`` int64 (A,),
            -1 where one has no meaning, with ``__getitems__``; ``attribute_names``, ``attribute_sizes``, ``image_shape``.
        cache_dir: folder of the file; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: the data have no attributes, or the folder cannot be written.
    """
    if not hasattr(datamodule, "judging_dataset"):
        raise UsageError(
            f"model.scores reads in pictures what captions say, but {type(datamodule).__name__} has no attributes to learn "
            "it from; set model.scores.accuracy to false, and model.scores.features to inception, or model.scores to null"
        )
    dataset = datamodule.judging_dataset(_HELD_OUT + _SEEN)
    (channels, *sides), sizes = datamodule.image_shape, tuple(datamodule.attribute_sizes)
    return kept_or_trained(
        lambda: AttributeJudge(channels, max(sides), sizes),
        lambda: _fingerprint(dataset, sizes),
        lambda judge: _train(judge, dataset, datamodule.attribute_names),
        cache_dir,
    )


def judge_of(module: LightningModule, cache_dir: str | None) -> tuple[AttributeJudge, tuple[str, ...]]:
    """The judge of the data that a module's Trainer has, and the names of its attributes.

    Raises:
        UsageError: there are no data, or they have no attributes.
    """
    datamodule = module.trainer.datamodule
    if datamodule is None:
        raise UsageError(
            "model.scores trains a judge on the data, so pass a datamodule to the Trainer; or set model.scores.accuracy to "
            "false, and model.scores.features to inception"
        )
    return trained_judge(datamodule, cache_dir)[0], tuple(datamodule.attribute_names)


def _fingerprint(dataset: Dataset, sizes: Sequence[int]) -> str:
    """Names recipe and data, for which 256 pictures speak."""
    batch = dataset.__getitems__(range(256))
    digest = blake2b(
        repr(("judge", _RECIPE, _WIDTHS, _SEEN, tuple(batch["image"].shape), sizes)).encode(), digest_size=16
    )
    for values in (batch["image"], batch["attributes"]):
        digest.update(values.contiguous().numpy())
    return digest.hexdigest()


def _train(judge: AttributeJudge, dataset: Dataset, names: Sequence[str]) -> dict[str, float]:
    """Trains with AdamW and one cycle of the learning rate; the accuracy on the first 2000 pictures, the others'."""
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
    starts = range(_HELD_OUT, _HELD_OUT + _SEEN, _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.005, total_steps=len(starts))
    for start in starts:
        batch = dataset.__getitems__(range(start, start + _BATCH))
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
def _accuracy(judge: AttributeJudge, dataset: Dataset, names: Sequence[str]) -> dict[str, float]:
    """Parts of the held-out pictures in which an attribute that has a meaning is found, and in which all are."""
    batches = [dataset.__getitems__(range(start, start + _BATCH)) for start in range(0, _HELD_OUT, _BATCH)]
    truth = torch.cat([batch["attributes"] for batch in batches])
    right = fulfilled(torch.cat([judge.attributes(batch["image"]) for batch in batches]), truth)
    parts = {"all": right.all(1).float().mean().item()}
    for name, hits, meant in zip(names, right.T, truth.T >= 0, strict=True):
        if meant.any():
            parts[name] = hits[meant].float().mean().item()
    return parts
