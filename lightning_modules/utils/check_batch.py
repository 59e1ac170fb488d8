"""Check that the batches of a datamodule are those of a method's task."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from darkroom.errors import UsageError


class NeedsEntries(Protocol):
    """Method that states the entries of its batches."""

    needs: ClassVar[Mapping[str, type]]


def check_first_batch(method: NeedsEntries, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
    """Check, as a hook of a method, that the first batch of an epoch has the entries that the method needs.

    Raises:
        UsageError: an entry is missing or of another type, so the data belong to another task.
    """
    for name, kind in method.needs.items() if batch_idx == 0 else ():
        if not isinstance(batch.get(name), kind):
            entries = ", ".join(f"{key} ({type(value).__name__})" for key, value in batch.items())
            raise UsageError(
                f"{type(method).__name__} needs {name!r} ({kind.__name__}) in every batch, but the data deliver {entries}; "
                "use data of the same task (`darkroom list` shows pairs that fit)"
            )
