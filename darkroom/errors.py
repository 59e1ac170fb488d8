"""The mistakes a user can make. The door prints them as one message, without a traceback.

They are no ValueErrors, because jsonargparse takes those for a wrong type and wraps them.
"""


class UsageError(Exception):
    """A wrong command line or config: names the key and the value, and says what would be right. Exit code 2."""


class DataError(Exception):
    """Data that cannot be trained on: names the file or folder, and says what would be right. Exit code 1."""


class TrainingError(Exception):
    """A training that cannot go on, such as a loss that is not finite. Exit code 1."""
