"""Read the fields of annotation files, whose tools write one number in many ways: 1, 1.0, "1", True."""

import math
import re
from typing import Any

from darkroom.errors import DataError


def read_number(value: Any, field: str) -> float:
    """Return a finite number.

    Args:
        value: a number, or text of a number.
        field: file and key, for messages.

    Raises:
        DataError: the value is something else, infinite or not a number.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value.replace("_", "?") if isinstance(value, str) else value)  # Python reads 1_0 as 10
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise DataError(f"{field} must be a finite number, got {_shorten(value)}")


def read_whole_number(value: Any, field: str) -> int:
    """Return a whole number; see ``read_number``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # exact beyond 2**53 too
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", value):
        return int(value)
    number = read_number(value, field)
    if not number.is_integer():
        raise DataError(f"{field} must be a whole number, got {_shorten(value)}")
    return int(number)


def _shorten(value: Any) -> str:
    """Return a value as text, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_flag(value: Any, field: str) -> bool:
    """Return True for 1, "1" and true, False for 0, "0", false, None and empty text.

    Raises:
        DataError: the value is something else.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    text = str(value).strip().lower()
    if text in ("", "0", "0.0", "false"):
        return False
    if text in ("1", "1.0", "true"):
        return True
    raise DataError(f"{field} must be 0 or 1, got {value!r}")
