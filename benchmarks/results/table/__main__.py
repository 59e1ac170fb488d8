"""``python -m benchmarks.results.table``: run the embedded configs that have no result yet, and write docs/results.md.

A stopped command resumes with the same command line. Other options are those of ``darkroom fit``, for shortened trials.
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.results.table.page import PAGE, format_time, format_value, mean, render, rendered_files
from benchmarks.results.table.raw import RAW, Result, current_results, read_results, write_result
from benchmarks.results.table.rows import ROOT, Row, read_rows
from benchmarks.results.table.runner import RowFailedError, Runner

SHORT_FIT = 300.0  # seconds of processor time up to which a row has three seeds


class Progress:
    """Prints a line for every result, with the elapsed and the estimated time.

    Args:
        count: number of rows to run.
    """

    def __init__(self, count: int) -> None:
        self.count, self.done, self.start = count, 0, time.monotonic()

    def print(self, message: str) -> None:
        """Print a message with the time since the start."""
        print(f"[{format_time(time.monotonic() - self.start)}] {message}", flush=True)

    def finish_row(self) -> None:
        """Count a finished row and print the estimate for the others: the mean time of those that have run."""
        self.done += 1
        left = (time.monotonic() - self.start) / self.done * (self.count - self.done)
        self.print(f"row {self.done} of {self.count} done; about {format_time(left)} left")


def run_rows(
    names: Sequence[str],
    rows: dict[str, Row],
    run: Callable[[Row, int], Result],
    results: Path,
    seeds: int | None = None,
    cores: int = 1,
    stopping: threading.Event | None = None,
) -> list[str]:
    """Run rows with every seed that has no result; write each result at once; return the names of rows that failed.

    Args:
        names: of the rows to run.
        rows: all rows.
        run: runs one row with one seed.
        results: file of the raw results.
        seeds: number of seeds; None: three if the fits of a row take at most five minutes, else one.
        cores: rows that run at the same time.
        stopping: no further row or seed begins once it is set.
    """
    failed, lock, stopping = list[str](), threading.Lock(), stopping or threading.Event()
    progress = Progress(len(names))

    def run_row(row: Row) -> None:
        while not stopping.is_set():
            with lock:
                done = current_results(row, rows, read_results(results))
            seed = next_seed(done, seeds)
            if seed is None:
                break
            progress.print(f"{row.name}, seed {seed}")
            try:
                result = run(row, seed)
            except RowFailedError as error:
                if not stopping.is_set():
                    failed.append(row.name)
                    progress.print(f"{row.name}, seed {seed}: {error}")
                break
            with lock:
                write_result(results, result)
            values = ", ".join(f"{label} {format_value(mean([result], key))}" for key, label in row.metrics.items())
            progress.print(f"{row.name}, seed {seed}: {values} in {format_time(result.seconds)} of processor time")
        with lock:
            if not stopping.is_set():
                progress.finish_row()

    with ThreadPoolExecutor(cores) as pool:
        for future in [pool.submit(run_row, rows[name]) for name in names]:
            future.result()
    return failed


def next_seed(done: Sequence[Result], seeds: int | None) -> int | None:
    """Return the next seed of a row; None if it has all."""
    wanted = seeds
    if wanted is None:
        wanted = 3 if not done or max(sum(one.fit_seconds) for one in done) <= SHORT_FIT else 1
    return next((seed for seed in range(wanted) if seed not in {one.seed for one in done}), None)


def _parse(argv: Sequence[str] | None, rows: dict[str, Row]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.table", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--only", action="extend", nargs="*", metavar="NAME", default=[], help="rows (segmentation/unet) or families"
    )
    parser.add_argument("--seeds", type=int, help="of every row; default: 3 if its fits take at most 5 minutes, else 1")
    parser.add_argument("--cores", type=int, default=1, help="rows that run at the same time, one thread each")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RAW, help="raw results; another file leaves the docs alone")
    parser.add_argument("--render", action="store_true", help="run nothing, write page, marked numbers and heads again")
    arguments, options = parser.parse_known_args(argv)
    unknown = set(arguments.only) - rows.keys() - {row.family for row in rows.values()}
    if unknown:
        parser.error(f"--only must name rows or families, got {', '.join(sorted(unknown))}; rows are {', '.join(rows)}")
    if options and arguments.results == RAW:
        parser.error(f"{options[0]} changes the configs, whose results are in the docs; give another --results FILE")
    return arguments, options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    rows = read_rows()
    arguments, options = _parse(argv, rows)
    code, received = 0, list[int]()
    if not arguments.render:
        chosen = [
            row.name for row in rows.values() if not arguments.only or {row.name, row.family} & set(arguments.only)
        ]
        names = [name for name in chosen if name in arguments.only or not rows[name].needs]
        runner, stopping = Runner(rows, arguments.runs_dir.absolute(), tuple(options)), threading.Event()

        def stop(signum: int, _: object) -> None:
            received.append(signum)
            stopping.set()
            runner.stop(signum)

        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, stop)
        failed = run_rows(names, rows, runner, arguments.results, arguments.seeds, arguments.cores, stopping)
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
        code = 128 + received[0] if received else bool(failed)
    results = read_results(arguments.results)
    files = rendered_files(rows, results) if arguments.results == RAW else {}
    page = PAGE if arguments.results == RAW else arguments.results.with_suffix(".md")
    for path, text in (files | {page: render(rows, results)}).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
