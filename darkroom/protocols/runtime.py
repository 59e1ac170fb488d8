"""Interfaces of the command line and of what a run saves."""

from typing import Any, Protocol, runtime_checkable


class ConfigTraits(Protocol):
    """What the command line reads from a class that a config names, before it is built.

    A class declares them as ``ClassVar``; all of them are optional.
    """

    @property
    def linked_arguments(self) -> tuple[str, ...]:
        """Constructor arguments that a config leaves open and the command line fills from the data and the model."""
        ...

    @property
    def initial_weight_arguments(self) -> tuple[str, ...]:
        """Constructor arguments that name the first weights; a checkpoint replaces them."""
        ...

    @property
    def is_trained(self) -> bool:
        """Whether the model loads trained weights itself, and predicts without a checkpoint."""
        ...

    @property
    def is_conditional(self) -> bool:
        """Whether the model uses ``num_classes``, unless its argument ``conditional`` says otherwise."""
        ...

    @property
    def monitor(self) -> tuple[str, str]:
        """Metric of the best checkpoint, and its mode: min or max."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A loader whose position can be restored."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the position."""
        ...
