"""Types of numbers in a range: the command line rejects others while parsing, and ``--help`` shows the range.

For type checkers and Python callers they are plain numbers, which the constructors check. They are for groups of options.
Arguments that a subclass declares again, such as those of datamodules, must be plain, or a config cannot be written.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    ClosedUnitInterval = float
    NonNegativeFloat = float
    PositiveFloat = float
    PositiveInt = int
else:
    from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

__all__ = ["ClosedUnitInterval", "NonNegativeFloat", "PositiveFloat", "PositiveInt"]
