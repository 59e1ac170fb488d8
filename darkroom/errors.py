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
