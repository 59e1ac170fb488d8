"""TextEncoder: interface of the encoders of captions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from darkroom.errors import UsageError


class Text(NamedTuple):
    """Token embeddings of captions; L is the number of tokens of the longest caption of the batch, at least 1.

    Attributes:
        tokens: float32 (B, L, dim), embeddings; zeros at padding.
        mask: bool (B, L), True at tokens, False at padding.
    """

    tokens: Tensor
    mask: Tensor


def pad_rows(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad rows of different lengths with zeros to (B, L, ...), and return a mask bool (B, L); L is at least 1."""
    # One more row, of length 1, so that L is at least 1.
    values = pad_sequence([*rows, rows[0].new_zeros(1, *rows[0].shape[1:])], batch_first=True)[:-1]
    lengths = torch.tensor([len(row) for row in rows])
    return values, torch.arange(values.shape[1]) < lengths[:, None]


class WarnOnce:
    """Warning that is shown only once. Copies of its owner share it, so a network and its EMA warn once together."""

    def __init__(self) -> None:
        self.shown = False

    def __deepcopy__(self, memo: dict[int, object]) -> "WarnOnce":
        return self

    def __call__(self, message: str) -> None:
        if not self.shown:
            self.shown = True
            rank_zero_warn(message)


class TextEncoder(nn.Module, ABC):
    """Base of the text encoders, which encode captions as ``Text``.

    Args:
        dim: of each token's embedding.
        max_length: largest number of tokens of a caption, special tokens included; longer captions are truncated, with one
            warning.

    Attributes:
        trains: the weights are part of the model: of its checkpoints, EMA and optimizer. A frozen encoder has none.
    """

    trains: ClassVar[bool] = False
    linked_arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dim: int, max_length: int) -> None:
        super().__init__()
        if max_length < 1:
            raise UsageError(f"model.text.max_length must be at least 1, got {max_length}")
        self.dim, self.max_length = dim, max_length
        self._warn_cut = WarnOnce()

    @abstractmethod
    def forward(self, captions: Sequence[str]) -> Text:
        """Encode B captions as tokens. An empty caption may have no tokens."""

    @abstractmethod
    def tokens_of(self, caption: str) -> list[str]:
        """Return the text of each of the caption's tokens, as many as there are True in its row of the mask."""

    def words_of(self, caption: str) -> list[tuple[str, list[int]]]:
        """Return the caption's words, each with the indices of its tokens; here every token is a word."""
        return [(word, [index]) for index, word in enumerate(self.tokens_of(caption))]

    def prepare(self) -> None:
        """Check that captions can be encoded; called before training and sampling.

        Raises:
            UsageError: packages or weights are missing; the message shows how to get them.
        """

    def warn_truncated(self, caption: str, length: int) -> None:
        """Warn once about a truncated caption."""
        if length > self.max_length:
            self._warn_cut(
                f"captions are truncated to {self.max_length} tokens (model.text.max_length); this one has {length}, and "
                f"there may be more: {caption!r}"
            )
