"""Switch of operations that have a faster form on CPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

cpu_paths: ContextVar[bool] = ContextVar("cpu_paths", default=True)


@contextmanager
def without_cpu_paths() -> Iterator[None]:
    """Compute as on a GPU within the context, to count the operations of one on a CPU."""
    token = cpu_paths.set(False)
    try:
        yield
    finally:
        cpu_paths.reset(token)
