"""Captions of pictures: which of several is drawn, which words they use, and which pictures a mirror would make false."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

_SIDED = re.compile(r"\b(left|right)", re.IGNORECASE)


def words_of(caption: str) -> list[str]:
    """The words of a caption, in lower case: ``"A red-hot fire."`` -> ``["a", "red", "hot", "fire"]``."""
    return re.findall(r"\w+", caption.lower())


def most_frequent_words(captions: Iterable[str], count: int | None) -> list[str]:
    """The ``count`` most frequent words, None for all of them, sorted."""
    counted = Counter(word for caption in captions for word in words_of(caption))
    return sorted(sorted(counted, key=lambda word: (-counted[word], word))[:count])


def captions_in(cell: Any) -> list[str]:
    """The captions in what a table or a JSON has for them: nothing, a text, or a list of texts. Empty ones are left out."""
    texts = cell if isinstance(cell, list) else [cell]
    return [" ".join(str(text).split()) for text in texts if text is not None and str(text).strip()]


class DrawnCaption(v2.Transform):
    """Makes one of a sample's ``captions`` its ``caption``, drawn under the sample's own generator."""

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        captions = sample["captions"]
        drawn = captions[int(torch.randint(len(captions), ()))]
        return {key: value for key, value in sample.items() if key != "captions"} | {"caption": drawn}


class UnsidedFlip(v2.Transform):
    """Mirrors half of the pictures left-right, but never one whose caption says left or right: it would become false."""

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        if torch.rand(()) < 0.5 or _SIDED.search(sample["caption"]):
            return sample
        return sample | {"image": F.horizontal_flip(sample["image"])}
