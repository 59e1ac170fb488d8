"""Errors that a user can fix. The command line prints them as one message, without a traceback."""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Base of these errors. Keeps the newest one, because jsonargparse keeps only the text of a constructor's error."""

    exit_code = 1
    newest: ClassVar[UserError | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        UserError.newest = self


class UsageError(UserError):
    """A wrong command line or config; the message names the key, the value and what it must be. Exit code 2."""

    exit_code = 2


class DataError(UserError):
    """Data that cannot be used; the message names the file or folder and the remedy. Exit code 1."""


class TrainingError(UserError):
    """A training that cannot continue, such as a loss that is not finite. Exit code 1."""


class StorageError(UserError):
    """A file of the run that the disk refuses. Exit code 1."""


class Stopped(SystemExit):
    """End of a run by a signal, with exit code 128 plus the signal's number, as in shells.

    Args:
        signum: the signal; None in a rank that another rank started, whose exit code counts.
    """

    def __init__(self, signum: int | None) -> None:
        self.exit_code = 0 if signum is None else 128 + signum
        super().__init__(self.exit_code)
        self.signum = signum
