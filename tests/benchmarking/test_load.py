"""Load of the machine beside a measurement, and results as JSON."""

import json
import time

import pytest

from benchmarks.__main__ import as_record, with_load
from benchmarks.speed.harness import ENTRIES, Options, Result
from benchmarks.speed.load import ProcessorUse, processor_use, processors_of_others


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
    assert after.own - before.own >= 0.09
    assert after.busy - before.busy >= 0.05


def test_result_states_the_load_and_becomes_json() -> None:
    nan = float("nan")
    result, others = with_load(lambda options: Result("Title", [("side", 1.0, 2.0, nan, None, 1.0)]), Options())
    record = json.loads(json.dumps(as_record("name", result, others)))
    assert record["rows"] == [
        {"name": "side", "ms": 1.0, "per_second": 2.0, "peak_mib": None, "of_peak": None, "ratio": 1.0}
    ]
    assert record["processors_of_others"] == others
    if others is not None:
        assert "Other processes used" in record["notes"][-1]


def test_commands_around_a_training_have_entries() -> None:
    assert {"start_up", "checkpoints", "loader_wait", "report_and_export"} <= ENTRIES.keys()
