"""Words: a small text encoder that learns with the pictures, for a world of few words."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.text.encoder import Once, Text, TextEncoder, padded

_UNKNOWN = 0  # the row of all words that are not in the list


def split(caption: str) -> list[str]:
    """The words of a caption: lower case, without punctuation."""
    return re.findall(r"\w+", caption.lower())


class Words(TextEncoder):
    """A transformer encoder of words (Vaswani et al. 2017; norms first, as Xiong et al. 2020), trained with the model.

    One token is one word. Where a word stands is learned, too: "a red circle left of a blue square" is not its words in
    another order. No dropout: a caption always means the same. An empty caption has no token.

    Args:
        words: all that are known, lower case; the command line takes them from the data. What they mean lies in the
            checkpoint, in their order. All others share an embedding that begins as zeros; the first met are named.
        dim: of a token.
        layers: of the transformer; 0: each word by itself, at its place.
        heads: of attention; they divide dim.
        max_length: words of a caption.

    Raises:
        UsageError: no words, something that is not one word, heads that do not divide dim.
    """

    trains: ClassVar[bool] = True
    told: ClassVar[tuple[str, ...]] = ("words",)

    def __init__(
        self, words: list[str] | None = None, dim: int = 64, layers: int = 2, heads: int = 4, max_length: int = 32
    ) -> None:
        super().__init__(dim, max_length)
        _check(words, dim, layers, heads)
        self.words = list(words)
        self._indices = {word: index for index, word in enumerate(words, start=_UNKNOWN + 1)}
        self._warn_unknown = Once()
        self.embedding = nn.Embedding(len(words) + 1, dim)
        self.places = nn.Embedding(max_length, dim)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        with torch.no_grad():
            self.embedding.weight[_UNKNOWN].zero_()

    def forward(self, captions: Sequence[str]) -> Text:
        if not self._warn_unknown.said:
            self._say_unknown(captions)
        indices, mask = padded([torch.tensor(self._read(caption), dtype=torch.long) for caption in captions])
        device = self.embedding.weight.device
        indices, mask = indices.to(device, non_blocking=True), mask.to(device, non_blocking=True)
        x = self.embedding(indices) + self.places.weight[: indices.shape[1]]
        nothing = ~mask
        nothing[:, 0] = False  # attention to nothing at all would be nan; an empty caption looks at its padding
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=nothing)
        return Text(self.norm(x).float() * mask[:, :, None], mask)

    def tokens_of(self, caption: str) -> list[str]:
        return split(caption)[: self.max_length]

    def _read(self, caption: str) -> list[int]:
        """The rows of a caption's words."""
        words = split(caption)
        self.say_cut(caption, len(words))
        return [self._indices.get(word, _UNKNOWN) for word in words[: self.max_length]]

    def _say_unknown(self, captions: Sequence[str]) -> None:
        """Warns, once, of words that mean nothing."""
        strange = {word for caption in captions for word in split(caption)} - self._indices.keys()
        if strange:
            self._warn_unknown(
                f"words that the model does not know, which all mean the same to it: {', '.join(sorted(strange))}; "
                "there may be more such"
            )


def _check(words: list[str] | None, dim: int, layers: int, heads: int) -> None:
    if not words:
        raise UsageError(
            "model.text.words is empty; give the words of the captions, or data with captions, from which the command line "
            "takes them"
        )
    for word in words:
        if split(word) != [word]:
            raise UsageError(f"model.text.words has {word!r}, which is not one word in lower case without punctuation")
    twice = [word for word, times in Counter(words).items() if times > 1]
    if twice:
        raise UsageError(f"model.text.words names a word twice: {', '.join(twice)}")
    if dim < 1 or heads < 1 or dim % heads:
        raise UsageError(f"model.text.heads is {heads}; it divides model.text.dim, which is {dim}")
    if layers < 0:
        raise UsageError(f"model.text.layers is {layers}; it is at least 0")
