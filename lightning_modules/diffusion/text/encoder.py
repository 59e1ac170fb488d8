"""TextEncoder: what makes captions into token embeddings, whoever makes them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from darkroom.errors import UsageError


class Text(NamedTuple):
    """Captions as networks read them; L tokens are those of the longest of the batch, 1 at least.

    Attributes:
        tokens: float32 (B, L, dim), embeddings; zeros where there is no token.
        mask: bool (B, L), True where there is a token.
    """

    tokens: Tensor
    mask: Tensor


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths, zeros behind, (B, L, ...), and where there is something, bool (B, L); L is 1 at least."""
    # A row more, of one, so that L is 1 at least.
    values = pad_sequence([*rows, rows[0].new_zeros(1, *rows[0].shape[1:])], batch_first=True)[:-1]
    lengths = torch.tensor([len(row) for row in rows])
    return values, torch.arange(values.shape[1]) < lengths[:, None]


class Once:
    """Warns the first time only. The copies of what holds it share it: a network and its average say one thing once."""

    def __init__(self) -> None:
        self.said = False

    def __deepcopy__(self, memo: dict[int, object]) -> "Once":
        return self

    def __call__(self, message: str) -> None:
        if not self.said:
            self.said = True
            rank_zero_warn(message)


class TextEncoder(nn.Module, ABC):
    """Base of the text encoders: captions -> Text.

    Args:
        dim: of each token's embedding.
        max_length: tokens of a caption, the encoder's own marks included; longer ones are cut, with a warning at the first.

    Attributes:
        trains: whether its weights are the model's: in its checkpoints, averages and optimizer. A frozen one has none.
    """

    trains: ClassVar[bool] = False
    told: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dim: int, max_length: int) -> None:
        super().__init__()
        if max_length < 1:
            raise UsageError(f"model.text.max_length is {max_length}; it is at least 1")
        self.dim, self.max_length = dim, max_length
        self._warn_cut = Once()

    @abstractmethod
    def forward(self, captions: Sequence[str]) -> Text:
        """Captions, B of them, as tokens; what stands for an empty one is the encoder's choice, and may be nothing."""

    @abstractmethod
    def tokens_of(self, caption: str) -> list[str]:
        """What each of the caption's tokens stands for, as a reader knows it: as many as the mask's row has True."""

    def words_of(self, caption: str) -> list[tuple[str, list[int]]]:
        """The caption's words, and of each the tokens that it is made of; here every token is a word."""
        return [(word, [index]) for index, word in enumerate(self.tokens_of(caption))]

    def prepare(self) -> None:
        """Called before training or drawing: what would fail at the first caption fails now.

        Raises:
            UsageError: packages or weights are missing; says how to get them.
        """

    def say_cut(self, caption: str, length: int) -> None:
        """Warns, once, of a caption of more tokens than are read."""
        if length > self.max_length:
            self._warn_cut(
                f"captions are read up to {self.max_length} tokens (model.text.max_length); this one has {length}, and "
                f"there may be more such: {caption!r}"
            )
