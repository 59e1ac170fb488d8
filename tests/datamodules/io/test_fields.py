"""Fields of annotation files."""

import pytest

from darkroom.datamodules.io.fields import read_flag, read_number, read_whole_number
from darkroom.errors import DataError


@pytest.mark.parametrize("value", [0, "0", 0.0, "0.0", False, "false", None, "", " "])
def test_flag_is_false(value: object) -> None:
    assert read_flag(value, "a.json: iscrowd") is False


@pytest.mark.parametrize("value", [1, "1", 1.0, "1.0", True, "true", "True"])
def test_flag_is_true(value: object) -> None:
    assert read_flag(value, "a.json: iscrowd") is True


@pytest.mark.parametrize("value", ["yes", 2, -1, [], {}, "no"])
def test_flag_of_another_value_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="a.json: iscrowd must be 0 or 1"):
        read_flag(value, "a.json: iscrowd")


@pytest.mark.parametrize(("value", "number"), [(3, 3), ("3", 3), (3.0, 3), ("007", 7), (2**60 + 1, 2**60 + 1)])
def test_whole_number(value: object, number: int) -> None:
    assert read_whole_number(value, "id") == number


@pytest.mark.parametrize(
    "value", [True, None, "x", 1.5, "1.5", float("nan"), float("inf"), "1e999", [], "--5", "9" * 5000]
)
def test_other_values_are_no_whole_numbers(value: object) -> None:
    with pytest.raises(DataError, match="id must be a"):
        read_whole_number(value, "id")


def test_number_must_be_finite() -> None:
    assert read_number("2.5", "width") == 2.5
    with pytest.raises(DataError, match="width must be a finite number, got 'inf'"):
        read_number("inf", "width")
