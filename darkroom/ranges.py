"""Types of numbers in a range: the command line refuses others while it parses, and ``--help`` shows the range.

Type checkers and Python callers see plain numbers, which the constructors check.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    ClosedUnitInterval = float
    NonNegativeFloat = float
    NonNegativeInt = int
    PositiveFloat = float
    PositiveInt = int
else:
    from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = ["ClosedUnitInterval", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt"]
