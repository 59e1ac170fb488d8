"""CaptionSupervision: trains a text encoder to distinguish which attribute belongs to which object of a caption."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.base import Condition
from darkroom.lightning_modules.diffusion.blocks import mean_of_tokens


@dataclass(frozen=True)
class CaptionSupervision:
    """Supervision of a learned text encoder by the attributes that captions state.

    By the diffusion loss alone an encoder learns only slowly that "a red circle left of a blue square" and "a blue square
    left of a red circle" differ. So the cross-entropy of a linear layer on the mean of the tokens is added to the loss. Its
    weight falls linearly to zero.

    Args:
        weight: of the mean cross-entropy of the attributes, in the first step.
        steps: after which the weight is zero, at least 1.

    Raises:
        UsageError: a value is out of its range.
    """

    weight: float = 1.0
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise UsageError(f"model.supervision.weight must be above 0, got {self.weight}")
        if self.steps < 1:
            raise UsageError(f"model.supervision.steps must be at least 1, got {self.steps}")

    def weight_at(self, step: int) -> float:
        """Return the weight in a step, counted from 0."""
        return self.weight * max(0.0, 1 - step / self.steps)


class AttributeHead(nn.Module):
    """Linear prediction of attributes from the mean of a caption's tokens.

    Args:
        dim: of a token.
        sizes: number of values of each attribute.
    """

    def __init__(self, dim: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.linear = nn.Linear(dim, sum(self.sizes))

    def forward(self, condition: Condition) -> tuple[Tensor, ...]:
        """Compute the logits (B, size) of each attribute from ``text`` (B, L, dim) and ``text_mask`` bool (B, L)."""
        return self.linear(mean_of_tokens(condition["text"], condition["text_mask"])).float().split(self.sizes, 1)

    def loss(self, condition: Condition, attributes: Tensor) -> Tensor:
        """Compute the cross-entropy of each caption, mean over its stated attributes, float32 (B,).

        Captions that are dropped, or state no attribute, have none.

        Args:
            condition: see ``forward``.
            attributes: int64 (B, A), -1 where the caption states none.
        """
        kept = condition["text_mask"].any(1)
        stated = (attributes >= 0) & kept[:, None]
        columns = zip(self(condition), attributes.clamp(min=0).unbind(1), strict=True)
        errors = [F.cross_entropy(logits, values, reduction="none") for logits, values in columns]
        total = sum((error * there for error, there in zip(errors, stated.unbind(1), strict=True)), errors[0] * 0)
        return total / stated.sum(1).clamp(min=1)
