"""Captions: words, random choice of one, and a flip that omits captions with left or right."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from darkroom.datamodules.transforms.on_device import DeviceTransform

_SIDED = re.compile(r"\b(left|right)", re.IGNORECASE)


def words_of(caption: str) -> list[str]:
    """Split a caption into words, in lower case: ``"A red-hot fire."`` -> ``["a", "red", "hot", "fire"]``."""
    return re.findall(r"\w+", caption.lower())


def most_frequent_words(captions: Iterable[str], count: int | None) -> list[str]:
    """Return the ``count`` most frequent words, sorted; None: all words."""
    counted = Counter(word for caption in captions for word in words_of(caption))
    return sorted(sorted(counted, key=lambda word: (-counted[word], word))[:count])


def captions_in(cell: Any) -> list[str]:
    """Return the captions in a cell of a table or JSON: None, a text, or a list of texts. Empty ones are dropped."""
    texts = cell if isinstance(cell, list) else [cell]
    return [" ".join(str(text).split()) for text in texts if text is not None and str(text).strip()]


class RandomCaption(v2.Transform):
    """Choose one of a sample's ``captions`` as its ``caption``, at random with the sample's own generator."""

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        captions = sample["captions"]
        chosen = captions[int(torch.randint(len(captions), ()))]
        return {key: value for key, value in sample.items() if key != "captions"} | {"caption": chosen}


class CaptionSafeFlip(DeviceTransform):
    """Mirror half of the images left-right, except those whose caption mentions left or right."""

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        if torch.rand(()) < 0.5 or _SIDED.search(sample["caption"]):
            return sample
        return sample | {"image": F.horizontal_flip(sample["image"])}
