"""FitProgress: progress of a fit, for schedules of a loss."""

from typing import Any


class FitProgress:
    """Fraction of a fit's steps that are done.

    If a resumed fit is longer than before, the fraction does not fall: it grows from there to 1 over the remaining steps.
    """

    def __init__(self) -> None:
        self._steps: int | None = None
        self._start = (0, 0.0)  # step and fraction since when the fit has its length

    def begin(self, steps: int, step: int) -> None:
        """Set the length of the fit, and the step at which it begins or resumes."""
        if self._steps not in (None, steps):
            self._start = step, self.at(step)
        self._steps = steps

    def at(self, step: int) -> float:
        """Return the fraction at a step, in [0, 1]; 1 before ``begin``."""
        first, done = self._start
        if self._steps is None or step >= self._steps:
            return 1.0
        return done + (1 - done) * (step - first) / (self._steps - first)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"steps": self._steps, "start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of ``state_dict``."""
        self._steps, self._start = state["steps"], tuple(state["start"])
