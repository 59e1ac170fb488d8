"""Types of numbers in a range: the command line refuses others while it parses, and ``--help`` shows the range.

Type checkers and Python callers see plain numbers, which the constructors check. They serve in groups of options;
arguments that a subclass declares again, as those of datamodules, must stay plain, or a config cannot be written.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    ClosedUnitInterval = float
    NonNegativeFloat = float
    PositiveInt = int
else:
    from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveInt

__all__ = ["ClosedUnitInterval", "NonNegativeFloat", "PositiveInt"]
