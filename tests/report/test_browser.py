"""Reports in a real browser, opened from disk: errors, images, sorting, filters and width; and one of 5,000 samples."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from darkroom.report.write import write_report
from darkroom.runtime.records.results import Task
from tests.browser import dump, needs_browser, probe
from tests.fakes.runs import write_run

WIDTHS = {"phone": 390, "desktop": 1280}

pytestmark = [
    pytest.mark.slow,
    needs_browser,
]

# Uses the page as a reader does.
_USE = """
const opened = performance.timing.loadEventStart - performance.timing.navigationStart;
const found = {problems, sorted: [], filtered: [], gallery: []};
found.broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
found.images = document.images.length;
found.scrolls = document.documentElement.scrollWidth - document.documentElement.clientWidth;
for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = head.querySelector("button");
    const numeric = head.classList.contains("number");
    for (const order of numeric ? ["descending", "ascending"] : ["ascending", "descending"]) {
      button.click();
      const cells = [...table.tBodies[0].rows].map(row => row.cells[head.cellIndex]);
      const values = numeric ? cells.map(c => Number(c.dataset.value)).filter(v => !Number.isNaN(v))
        : cells.map(c => c.textContent);
      const compare = (a, b) => numeric ? a - b : a.localeCompare(b, undefined, {numeric: true});
      const sign = order === "ascending" ? 1 : -1;
      const right = values.every((v, i) => !i || sign * compare(values[i - 1], v) <= 0);
      found.sorted.push(right && head.getAttribute("aria-sort") === order);
    }
  }
}
for (const input of document.querySelectorAll(".filter input")) {
  const rows = [...input.closest("section, details").querySelectorAll("tbody tr")];
  input.value = "no row has this text";
  input.dispatchEvent(new Event("input"));
  found.filtered.push(rows.some(row => row.hidden));
  input.value = "";
  input.dispatchEvent(new Event("input"));
  found.filtered.push(!rows.some(row => row.hidden));
}
for (const link of document.querySelectorAll("a[data-key]")) {
  link.click();
  const items = [...document.querySelector(link.getAttribute("href")).querySelectorAll("li")];
  const shown = items.filter(item => !item.hidden);
  found.gallery.push(shown.length > 0 && shown.every(i => i.dataset.keys.split(" ").includes(link.dataset.key)));
}
found.seconds = opened / 1000;
"""


def browse(page: Path, width: int) -> dict[str, Any]:
    """Open a page, sort all its tables, filter them, and follow its numbers to the images; return what happened."""
    # A window cannot be narrower than 500 pixels.
    body = f'<body style="width: {width}px">' if width < 500 else "<body>"
    return probe(page, _USE, max(width, 500), 20_000, body)


@pytest.fixture(scope="module", params=["classification", "segmentation", "detection", "captions", "autoencoding"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of each task."""
    return write_report(write_run(tmp_path_factory.mktemp("runs") / request.param / "0", request.param, samples=40))


@pytest.mark.parametrize("width", WIDTHS)
def test_page_works_in_a_browser(page: Path, width: str) -> None:
    found = browse(page, WIDTHS[width])
    assert found["problems"] == []
    assert found["broken"] == 0
    assert found["images"] > 5
    assert found["sorted"]
    assert all(found["sorted"])
    assert found["filtered"]
    assert all(found["filtered"])
    assert all(found["gallery"])
    if width == "desktop":
        assert found["scrolls"] == 0


def test_page_does_not_scroll_sideways_on_a_phone(page: Path) -> None:
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<body><iframe width="390" height="900" src="{page.as_uri()}"></iframe><script>addEventListener("load", () => {{'
        'const page = document.querySelector("iframe").contentDocument.documentElement;'
        'document.body.append("REPORT" + (page.scrollWidth - page.clientWidth) + "END");});</script></body>'
    )
    done = dump(frame)
    frame.unlink()
    assert "REPORT0END" in done, done[-300:]


_MEASURE = """
import sys, time
from darkroom.__main__ import main
from darkroom.runtime.records.run_record import peak_memory_of_process
assert main(["report", sys.argv[1]]) == 0
print("USED", time.process_time(), peak_memory_of_process())
"""


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_report_of_5000_samples_is_quick_and_small(tmp_path: Path, task: Task) -> None:
    """Processor time, since other tests share the machine: 20 s, 300 MB; the page opens in 2 s."""
    side = 128 if task == "segmentation" else 256
    run = write_run(tmp_path / "runs" / task / "0", task, samples=5000, kept=400, side=side)
    command = [sys.executable, "-c", _MEASURE, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, mebibytes = map(float, done.stdout.split("USED")[1].split())
    found = min((browse(run / "report/index.html", 1280) for _ in range(3)), key=lambda one: one["seconds"])
    print(f"{task}: {seconds:.1f} s, {mebibytes:.0f} MiB, opens in {found['seconds']:.2f} s")
    assert seconds < 20
    assert mebibytes < 300
    assert found["seconds"] < 2
    assert found["broken"] == 0
