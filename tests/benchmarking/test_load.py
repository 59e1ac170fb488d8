"""Load of the machine beside a measurement."""

import time

import pytest

from benchmarks.load import ProcessorUse, processor_use, processors_of_others


def test_own_work_is_not_that_of_others() -> None:
    assert processors_of_others(ProcessorUse(0, 10, 1), ProcessorUse(2, 14, 3)) == 1.0
    assert processors_of_others(ProcessorUse(0, 10, 1), ProcessorUse(2, 12, 3)) == 0.0
    assert processors_of_others(None, None) is None


def test_reading_counts_the_work_of_this_process() -> None:
    before = processor_use()
    if before is None:
        pytest.skip("needs /proc/stat")
    start = time.process_time()
    while time.process_time() - start < 0.1:
        pass
    after = processor_use()
    assert after is not None
    assert after.own - before.own >= 0.08  # both are in hundredths of a second
    assert after.busy - before.busy >= 0.05
