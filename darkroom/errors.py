"""Errors that a user can fix. The command line prints them as one message, without a traceback."""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Base of these errors. Stores the newest one, because jsonargparse keeps only the text of a constructor's error."""

    exit_code = 1
    newest: ClassVar[UserError | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        UserError.newest = self


class UsageError(UserError):
    """Invalid command line or config; the message has the key, the value and the valid values. Exit code 2."""

    exit_code = 2


class DataError(UserError):
    """Invalid data; the message has the file or folder and the remedy. Exit code 1."""


class TrainingError(UserError):
    """Training that cannot continue, such as after a loss that is not finite. Exit code 1."""


class StorageError(UserError):
    """File of the run that cannot be written. Exit code 1."""


class HubError(UserError):
    """Request that the Hugging Face hub refuses, or a hub that cannot be reached. Exit code 1."""


class Stopped(SystemExit):
    """End of a run by a signal, with exit code 128 plus the signal's number, as in shells.

    Args:
        signum: the signal; None in a rank that another rank started, whose exit code counts.
    """

    def __init__(self, signum: int | None) -> None:
        self.exit_code = 0 if signum is None else 128 + signum
        super().__init__(self.exit_code)
        self.signum = signum
