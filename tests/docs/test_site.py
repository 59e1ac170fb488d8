"""The docs site, built strictly and opened in a real browser from file://, without a network."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import dump, needs_browser, probe

ROOT = Path(__file__).parents[2]
WIDTHS = {"narrow": 500, "desktop": 1280}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("site"),  # builds the site once
    pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="make docs installs mkdocs"),
]

# Runs in every page.
_PROBE = """
const found = {
  problems,
  requests: performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("file:")),
  broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
  scrolls: document.documentElement.scrollWidth - document.documentElement.clientWidth,
};
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(["make", "types"], cwd=ROOT, check=True, capture_output=True)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


# Loads pages in a frame of 390 pixels: a window cannot be narrower than 500.
_FRAMES = """
<body><script>
(async () => {
  const wide = [];
  for (const url of PAGES) {
    const frame = document.createElement("iframe");
    frame.width = 390;
    document.body.append(frame);
    await new Promise(loaded => { frame.onload = loaded; frame.src = url; });
    await new Promise(ready => setTimeout(ready, 300));
    const page = frame.contentDocument.documentElement;
    if (page.scrollWidth > page.clientWidth) wide.push(url);
    frame.remove();
  }
  const report = document.createElement("pre");
  report.textContent = "REPORT" + JSON.stringify(wide) + "END";
  document.body.append(report);
})();
</script></body>
"""


def pages_of(site: Path) -> list[Path]:
    """Return all pages but those of sources, and 404.html, which a server shows at any address."""
    pages = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    return [path for path in pages if "source" not in path.relative_to(site).parts]


def test_no_page_names_another_host(site: Path) -> None:
    """Scripts, styles, fonts and images all come from the site itself."""
    import re

    loads = re.compile(r'<(?:script|img|link(?=[^>]*rel="?stylesheet))[^>]*(?:src|href)="?(https?:[^" >]+)')
    assert {
        path.name: loads.findall(path.read_text()) for path in pages_of(site) if loads.search(path.read_text())
    } == {}


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_opens_offline(site: Path, width: str) -> None:
    faults = {}
    for page in pages_of(site):
        wrong = {key: value for key, value in probe(page, _PROBE, WIDTHS[width], 4000).items() if value}
        if wrong:
            faults[page.relative_to(site).as_posix()] = wrong
    assert faults == {}


@needs_browser
def test_no_page_scrolls_sideways_on_a_phone(site: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames.html"
    frames.write_text(_FRAMES.replace("PAGES", json.dumps([page.as_uri() for page in pages_of(site)])))
    done = dump(frames, milliseconds=60_000)
    assert "REPORT[]END" in done, done[-2000:]


def test_every_source_page_links_back(site: Path) -> None:
    sources = [path.read_text() for path in (site / "source").rglob("*.html")]
    assert len(sources) > 50
    assert all("<p>Linked from:</p>" in page for page in sources)


def test_equations_are_rendered(site: Path) -> None:
    page = (site / "methods/diffusion.html").read_text()
    assert page.count("<math") > 20
    assert "arithmatex" not in page


# Uses every control of an explainer as a reader without a mouse does.
_USE = """
const all = choose => [...document.querySelectorAll(choose)];
const figures = all(".explainer");
const pixels = figure => [...figure.querySelectorAll("canvas")].map(canvas => canvas.toDataURL());
const content = () => figures.map(figure => figure.innerHTML + pixels(figure)).join();
const heights = () => all(".e-panels").map(panels => Math.round(panels.getBoundingClientRect().height));
const before = heights();
const found = { problems, dead: [], wrong: [], jumps: [] };
found.empty = figures.filter(figure => !figure.querySelector("svg")).length;
const use = (name, ...actions) => {
  const start = content();
  let changed = false;
  for (const action of actions) {
    action();
    changed ||= content() !== start;
    const bad = content().match(/.{20}(NaN|undefined|Infinity|object Object).{20}/);
    if (bad) found.wrong.push([name, bad[0]]);
    if (heights().some((height, i) => Math.abs(height - before[i]) > 1)) found.jumps.push(name);
  }
  if (!changed) found.dead.push(name);
};
const put = (input, value) => () => {
  input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true }));
};
const press = (node, key) => () => {
  node.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey: true, bubbles: true }));
};
const name = node => node.getAttribute("aria-label") || node.textContent;
const keys = ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowUp"];
for (const choice of [null, ...all(".explainer input[type=radio]").reverse()]) {
  if (choice) choice.click();
  for (const input of all(".explainer input[type=range]")) {
    const ends = [input.min, input.max, input.min];
    if (!input.closest("[hidden]") && input.min !== input.max) use(name(input), ...ends.map(end => put(input, end)));
  }
  for (const node of all(".explainer svg [tabindex], .explainer svg[tabindex]"))
    use(name(node), ...keys.map(key => press(node, key)));
  for (const input of all(".explainer input[type=checkbox]")) use(name(input), () => input.click());
}
for (const group of all(".explainer .e-buttons")) {
  const buttons = [...group.querySelectorAll("button")];
  use(name(group), ...[...buttons, ...buttons].map(button => () => button.click()));
  if (buttons.some(button => button.textContent === "Pause")) found.wrong.push([name(group), "still plays"]);
}
const parts = all(".explainer :is(input, [tabindex], svg[role=img], canvas)");
found.unnamed = parts.filter(node => !node.getAttribute("aria-label") && !node.closest("label")).length;
"""


@needs_browser
def test_controls_of_explainers_change_their_figures(site: Path) -> None:
    """Every control changes its figure, without errors, undefined numbers or changes of layout."""
    faults = {}
    pages = [page for page in pages_of(site) if page.parent.name == "explainers" and page.name != "index.html"]
    assert len(pages) == 9
    for page in pages:
        wrong = {name: value for name, value in probe(page, _USE, WIDTHS["narrow"], 4000).items() if value}
        if wrong:
            faults[page.name] = wrong
    assert faults == {}
