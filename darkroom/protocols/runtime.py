"""Interfaces of the command line and of checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable


class ConfigTraits(Protocol):
    """Traits of a class in a config, which the command line reads before it builds the class.

    A class declares them as ``ClassVar``; all of them are optional.
    """

    @property
    def linked_arguments(self) -> tuple[str, ...]:
        """Constructor arguments that the command line fills from the data and the model if a config leaves them open."""
        ...

    @property
    def initial_weight_arguments(self) -> tuple[str, ...]:
        """Constructor arguments that name the initial weights, which a checkpoint replaces."""
        ...

    @property
    def free_arguments(self) -> tuple[str, ...]:
        """Constructor arguments, or options of their groups, that may differ from those of a checkpoint."""
        ...

    @property
    def is_trained(self) -> bool:
        """True if the model loads trained weights itself, and predicts without a checkpoint."""
        ...

    @property
    def is_conditional(self) -> bool:
        """True if the model uses ``num_classes``; its argument ``conditional``, if given, takes precedence."""
        ...

    @property
    def monitor(self) -> tuple[str, str]:
        """Metric of the best checkpoint, and its mode: min or max."""
        ...

    @property
    def shared_arguments(self) -> Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]:
        """Static method: takes a model's arguments, returns those that fill its parts, by the part's name.

        They fill what the part's ``linked_arguments`` name. By default all arguments fill ``network``.
        """
        ...


@runtime_checkable
class PositionedLoader(Protocol):
    """Training loader whose position within an epoch can be stored and restored."""

    def batches_before(self, samples: int, /) -> int:
        """Return how many batches of today's size the first ``samples`` samples of an epoch stand for."""
        ...

    def position_after(self, batches: int, /) -> dict[str, Any]:
        """Return the position after this number of batches of the current epoch: plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore a position."""
        ...
