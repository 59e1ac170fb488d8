"""Work and memory of a training step grow no faster than the mathematics of its method."""

import pytest

from benchmarks.planning.growth import CASES, TOLERANCE, Case, count, exponent, grown_bytes

IN_UNIT_LANE = ("autoencoding/vae:images", "detection/yolo:classes")


def test_the_exponent_of_a_power_is_its_own() -> None:
    assert exponent((2, 4, 16), [3 * x**2 for x in (2, 4, 16)]) == pytest.approx(2)
    assert exponent((1, 10, 100), [5.0, 5.0, 5.0]) == pytest.approx(0)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=() if case.name in IN_UNIT_LANE else pytest.mark.slow) for case in CASES],
)
def test_work_and_memory_do_not_grow_faster(case: Case) -> None:
    profiles = count(case)
    work = exponent(case.points, [profile.work.flops for profile in profiles])
    memory = exponent(case.points, [grown_bytes(profile) for profile in profiles])
    assert work <= case.limit + TOLERANCE
    assert memory <= case.limit + TOLERANCE
    if case.size == "images":
        assert work == pytest.approx(1, abs=TOLERANCE)
