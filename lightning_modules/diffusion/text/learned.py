"""LearnedTextEncoder: a small text encoder that trains with the diffusion model, for captions of few words."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.text.encoder import Text, TextEncoder, WarnOnce, pad_rows

_UNKNOWN = 0  # row of all words outside the vocabulary


def split(caption: str) -> list[str]:
    """Split a caption into words, lower case, without punctuation."""
    return re.findall(r"\w+", caption.lower())


class LearnedTextEncoder(TextEncoder):
    """Transformer encoder of words (Vaswani et al. 2017; pre-norm, as Xiong et al. 2020), trained with the model.

    One token is one word, with a learned position embedding. The encoder has no dropout, so the tokens of a caption are
    deterministic. An empty caption has no tokens.

    Args:
        words: vocabulary, lower case; the command line takes it from the data. Embeddings in a checkpoint are in its order.
            All other words share one embedding, initially zero; a warning names the first ones.
        dim: of a token.
        layers: of the transformer; 0: word and position embeddings only.
        heads: of attention; must divide dim.
        max_length: largest number of words of a caption.

    Raises:
        UsageError: the vocabulary is empty or has an entry that is not one word, or heads do not divide dim.
    """

    trains: ClassVar[bool] = True
    linked_arguments: ClassVar[tuple[str, ...]] = ("words",)

    def __init__(
        self, words: list[str] | None = None, dim: int = 64, layers: int = 2, heads: int = 4, max_length: int = 32
    ) -> None:
        super().__init__(dim=dim, max_length=max_length)
        words = _check(words, dim, layers, heads)
        self.words = words
        self._indices = {word: index for index, word in enumerate(words, start=_UNKNOWN + 1)}
        self._warn_unknown = WarnOnce()
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
        if not self._warn_unknown.shown:
            self._warn_unknown_words(captions)
        indices, mask = pad_rows([torch.tensor(self._read(caption), dtype=torch.long) for caption in captions])
        device = self.embedding.weight.device
        return self.embed(indices.to(device, non_blocking=True), mask.to(device, non_blocking=True))

    def embed(self, indices: Tensor, mask: Tensor) -> Text:
        """Encode words.

        Args:
            indices: rows of the embedding, int64 (B, L), with any row at padding.
            mask: bool (B, L), True at words.
        """
        x = self.embedding(indices) + self.places.weight[: indices.shape[1]]
        padding = ~mask
        padding[:, 0] = False  # an empty caption attends to one padding token, since attention to no token is NaN
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return Text(self.norm(x).float() * mask[:, :, None], mask)

    def tokens_of(self, caption: str) -> list[str]:
        """Return the caption's words, at most ``max_length``."""
        return split(caption)[: self.max_length]

    def _read(self, caption: str) -> list[int]:
        """Return the embedding rows of a caption's words."""
        words = split(caption)
        self.warn_truncated(caption, len(words))
        return [self._indices.get(word, _UNKNOWN) for word in words[: self.max_length]]

    def _warn_unknown_words(self, captions: Sequence[str]) -> None:
        """Warn once about words outside the vocabulary."""
        unknown = {word for caption in captions for word in split(caption)} - self._indices.keys()
        if unknown:
            self._warn_unknown(
                f"captions have words outside model.text.words, which share one embedding: {', '.join(sorted(unknown))}; "
                "there may be more"
            )


def _check(words: list[str] | None, dim: int, layers: int, heads: int) -> list[str]:
    """Return the words, checked."""
    if not words:
        raise UsageError(
            "model.text.words is empty; give the words of the captions, or use data with captions, from which the command "
            "line takes them"
        )
    for word in words:
        if split(word) != [word]:
            raise UsageError(f"model.text.words must be single words in lower case without punctuation, got {word!r}")
    twice = [word for word, times in Counter(words).items() if times > 1]
    if twice:
        raise UsageError(f"model.text.words must be different words, got twice: {', '.join(twice)}")
    if dim < 1 or heads < 1 or dim % heads:
        raise UsageError(f"model.text.heads must divide model.text.dim, {dim}, got {heads}")
    if layers < 0:
        raise UsageError(f"model.text.layers must be at least 0, got {layers}")
    return list(words)
