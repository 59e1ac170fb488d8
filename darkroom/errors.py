"""The mistakes a user can make. The door prints them as one message, without a traceback."""


class UsageError(ValueError):
    """A wrong command line or config: names the key and the value, and says what would be right. Exit code 2."""


class DataError(ValueError):
    """Data that cannot be trained on: names the file or folder, and says what would be right. Exit code 1."""


class TrainingError(RuntimeError):
    """A training that cannot go on, such as a loss that is not finite. Exit code 1."""
