"""Budget and rows of a visit: each row is written as soon as it is there."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class OverBudgetError(Exception):
    """A part that took too long."""


class Visit:
    """Rows of a visit, in a file of JSON lines; a part that fails or takes too long is a row too.

    Args:
        path: of the rows; they are appended.
        budget: seconds of the whole visit.
    """

    def __init__(self, path: Path, budget: float) -> None:
        self.path, self.end = path, time.monotonic() + budget
        self.rows: list[dict[str, Any]] = []

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def add(self, **row: Any) -> None:
        """Write and print a row."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(" | ".join(str(value) for value in row.values()), flush=True)

    def run(
        self,
        part: str,
        name: str,
        measure: Callable[[], Iterator[dict[str, Any]]],
        limit: float = 60,
        reserve: float = 0.0,
    ) -> None:
        """Add the rows of a part, each with its name; a part that raises an error is added with its message.

        Args:
            part: correctness, speed, utilization or demo.
            name: of what is measured.
            measure: yields columns.
            limit: seconds after which it is stopped: between two operations, not within a long one.
            reserve: seconds of the budget that are left for later parts.
        """
        left = self.left - reserve
        if left <= 0:
            self.add(part=part, name=name, error="the budget is spent")
            return
        try:
            with _limit(min(left, limit)):
                for columns in measure():
                    self.add(part=part, name=name, **columns)
        except Exception as error:  # of any method, compiler or driver, which must not end the visit
            message = " ".join(f"{type(error).__name__}: {error}".split())
            self.add(part=part, name=name, error=message[:300])


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise an OverBudgetError in the main thread after some seconds."""

    def stop(*_: Any) -> None:
        raise OverBudgetError(f"stopped after {seconds:.3g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
