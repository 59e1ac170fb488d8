"""The mistakes a user can make. The door prints them as one message, without a traceback."""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Base of them. The newest is remembered, because jsonargparse keeps only the text of what a constructor raises."""

    exit_code = 1
    newest: ClassVar[UserError | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        UserError.newest = self


class UsageError(UserError):
    """A wrong command line or config: names the key and the value, and says what would be right. Exit code 2."""

    exit_code = 2


class DataError(UserError):
    """Data that cannot be trained on: names the file or folder, and says what would be right. Exit code 1."""


class TrainingError(UserError):
    """A training that cannot go on, such as a loss that is not finite. Exit code 1."""


class StorageError(UserError):
    """What a run writes and the disk does not take. Exit code 1."""


class Stopped(SystemExit):
    """The run was asked by a signal to end; exit code 128 and the signal's number, as shells have it.

    Args:
        signum: the signal; None in a process that another one of the same run started, and answers for.
    """

    def __init__(self, signum: int | None) -> None:
        super().__init__(0 if signum is None else 128 + signum)
        self.signum = signum
