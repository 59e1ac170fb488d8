"""Table of exported runs: largest difference to ``predict``, and time per image on one core, by format.

    python -m benchmarks.results.export_table runs/*/0

Every run is exported from its best checkpoint to ONNX and torch.export, generative methods in their parts. A row is added
to ``docs/export.jsonl``, instead of an earlier row of the same method and format, and the table in
``docs/guides/export.md`` is rendered from all rows.
"""

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS, GUIDE = ROOT / "docs/export.jsonl", ROOT / "docs/guides/export.md"
BEGIN, END = "<!-- table: rendered by benchmarks.results.export_table -->", "<!-- end of table -->"
FORMATS = {"onnx": "ONNX Runtime", "torch_export": "torch.export"}


@dataclass(frozen=True)
class Row:
    """Export of one run to one format.

    Args:
        method: class of the method, with the part of it that the file has.
        run: name of the experiment.
        format: of the file.
        size: sides of an image, in pixels.
        largest: largest difference to ``predict``, see ``Agreement``.
        same: fraction of the decisions that are the same.
        decisions: number and kind of the decisions; empty without any.
        torch_ms, exported_ms: time per image on one core.
        free: axes of any extent.
    """

    method: str
    run: str
    format: str
    size: str
    largest: float
    same: float
    decisions: str
    torch_ms: float
    exported_ms: float
    free: str


def measure(run: Path, kind: str, samples: int) -> list[Row]:
    """Export a run and return its rows, one for each file."""
    from darkroom.cli.commands.export import parse
    from darkroom.export.checkpoint import load_trained
    from darkroom.export.outputs import TASKS
    from darkroom.export.write import write_method

    checkpoint = next(path for name in ("best", "last") if (path := run / f"checkpoints/{name}.ckpt").is_file())
    config, data = parse(["--ckpt_path", str(checkpoint), "--format", kind])
    with tempfile.TemporaryDirectory() as folder:
        files = write_method(load_trained(checkpoint), data, config.format, Path(folder, "model"), samples)
    assert data is not None
    rows: list[Row] = []
    for written in files:
        check, description = written.check, written.description
        count, kinds = check.agreement.decisions, TASKS[description.task].decisions
        row = Row(
            method=f"{description.method} {description.part}".strip(),
            run=run.parent.name,
            format=kind,
            size=" x ".join(map(str, data.image_shape[1:])),
            largest=check.agreement.largest,
            same=check.agreement.fraction,
            decisions=f"{count} {kinds}" if count else "",
            torch_ms=round(check.torch_ms, 1),
            exported_ms=round(check.exported_ms, 1),
            free=", ".join(sorted(description.axes() - {"proposals"})),
        )
        rows.append(row)
    return rows


def read_rows(path: Path) -> list[Row]:
    """Read the recorded rows."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [Row(**json.loads(line)) for line in text.splitlines()]


def add_row(path: Path, row: Row) -> None:
    """Record a row in place of that of the same method, size of images and format."""
    key = (row.method, row.size, row.format)
    rows = [one for one in read_rows(path) if (one.method, one.size, one.format) != key] + [row]
    rows.sort(key=lambda one: (one.method, one.run, one.format))
    path.write_text("".join(f"{json.dumps(asdict(one))}\n" for one in rows), encoding="utf-8")


def render(rows: list[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| method | format | images | largest difference | the same | `predict`, ms | file, ms | free axes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        same = f"{row.same:.2%} of {row.decisions}" if row.decisions else ""
        cells = (row.method, FORMATS[row.format], row.size, f"{row.largest:.1e}", same)
        times = (f"{row.torch_ms:.1f}", f"{row.exported_ms:.1f}", row.free)
        lines.append(f"| {' | '.join((*cells, *times))} |")
    return "\n".join(lines)


def insert(text: str, table: str) -> str:
    """Return the text of the guide with the table between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Export the runs that the command line names, and render the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--samples", type=int, default=16, help="images of each run")
    options = parser.parse_args()
    for kind in options.formats:
        for run in options.runs:
            rows = measure(run, kind, options.samples)
            for row in rows:
                add_row(ROWS, row)
            GUIDE.write_text(insert(GUIDE.read_text(encoding="utf-8"), render(read_rows(ROWS))), encoding="utf-8")
            print(*render(rows).splitlines()[2:], sep="\n", flush=True)


if __name__ == "__main__":
    main()
