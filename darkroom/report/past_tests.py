"""Section of all tests of a run, such as those of a diffusion model with several samplers and numbers of steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from darkroom.callbacks.plotting.curves import curves
from darkroom.report.outputs import Outputs, figures
from darkroom.report.page import Section
from darkroom.report.run import Run
from darkroom.report.table import Table
from darkroom.runtime.records.past_tests import PastTest

_STEPS, _SAMPLER = "model.sampling.steps", "model.sampling.sampler"
_DISTANCE = "test/cnn_fid"
_MOST_METRICS = 6


def past_test_sections(run: Run, tests: Sequence[PastTest], outputs: Outputs) -> list[Section]:
    """Return a table of the tests, and the distance of samples by their number of steps; nothing for a single test."""
    if len(tests) < 2:
        return []
    options = list(dict.fromkeys(key for test in tests for key in test.options))
    metrics = _metrics_of(run, tests)
    rows = [
        [test.tested, *(_text(_option(run, test, key)) for key in options), *(test.metrics.get(m) for m in metrics)]
        for test in tests
    ]
    columns = ["time", *options, *(name.removeprefix("test/") for name in metrics)]
    caption = "All tests of this run, with the options that differ between them."
    blocks = [outputs.table(Table("tests", columns, rows, caption))]
    series = distance_by_steps(run, tests)
    if any(len(points) > 1 for points in series.values()):
        plot = curves(
            list(series.values()),
            list(series),
            axes=("sampling steps", "cnn_fid of the samples"),
            log_x=True,
            width=outputs.width,
        )
        blocks.append(figures(outputs.plot(plot, "distance-by-steps", "Distance of samples to test images by steps.")))
    return [Section("tests", "All tests", blocks)]


def _metrics_of(run: Run, tests: Sequence[PastTest]) -> list[str]:
    """Return the main metric, the distance of samples, and others, without losses and metrics of single classes."""
    main = f"test/{(run.monitor or '').partition('/')[2]}"
    others = [name for test in tests for name in test.metrics if name.count("/") == 1 and "loss" not in name]
    known = dict.fromkeys(name for test in tests for name in test.metrics)
    return [name for name in dict.fromkeys([main, _DISTANCE, *others]) if name in known][:_MOST_METRICS]


def distance_by_steps(run: Run, tests: Sequence[PastTest]) -> dict[str, np.ndarray]:
    """Return steps and ``cnn_fid`` (N, 2) of each sampler, by steps; of equal tests the newest."""
    values: dict[str, dict[int, float]] = {}
    for test in tests:
        steps, sampler = _option(run, test, _STEPS), _option(run, test, _SAMPLER)
        if isinstance(steps, int) and _DISTANCE in test.metrics:
            values.setdefault(str(sampler), {})[steps] = test.metrics[_DISTANCE]
    return {sampler: np.array(sorted(points.items()), dtype=np.float64) for sampler, points in values.items()}


def _option(run: Run, test: PastTest, key: str) -> Any:
    return test.options[key] if key in test.options else run.options.get(key)


def _text(value: object) -> str:
    return "" if value is None else str(value)
