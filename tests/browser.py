"""Pages in headless Chromium, opened from disk without a network."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
_OPTIONS += ["--proxy-server=127.0.0.1:9"]  # a proxy that is not there: nothing reaches another machine

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")

# Collects the errors of a page in window.problems.
_WATCH = """
window.problems = [];
addEventListener("error", e => problems.push(e.message || "cannot load " + (e.target.src || e.target.href)), true);
addEventListener("securitypolicyviolation", e => problems.push("request to " + e.blockedURI));
const log = console.error;
console.error = (...words) => { problems.push(words.join(" ")); log(...words); };
"""


def dump(page: Path, width: int = 1280, milliseconds: int = 9000) -> str:
    """Open a page and return its document after its scripts ran.

    Args:
        page: file.
        width: of the window in pixels, at least 500.
        milliseconds: time that the page has, of its own clock.
    """
    assert BROWSER is not None
    command = [BROWSER, *_OPTIONS, f"--window-size={width},900", f"--virtual-time-budget={milliseconds}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout


def probe(page: Path, script: str, width: int = 1280, milliseconds: int = 9000, body: str = "<body>") -> dict[str, Any]:
    """Open a copy of a page in its folder, run a script in it, and return the content of the script's object ``found``.

    Args:
        page: file.
        script: runs when the page is loaded; ``problems`` lists the errors so far.
        width, milliseconds: see ``dump``.
        body: tag instead of ``<body>``.
    """
    html = page.read_text().replace("<head>", f"<head><script>{_WATCH}</script>", 1).replace("<body>", body, 1)
    report = (
        'const report = document.createElement("pre"); report.textContent = "REPORT" + JSON.stringify(found) + "END";'
    )
    script = f"setTimeout(() => {{{script} {report} document.body.append(report);}}, 300)"
    probed = page.with_name(f"probed_{page.name}")
    # After the last </body>: scripts may contain the text of one.
    start, end = html.rsplit("</body>", 1)
    probed.write_text(f'{start}<script>addEventListener("load", () => {script});</script></body>{end}')
    try:
        done = dump(probed, width, milliseconds)
    finally:
        probed.unlink()
    assert ">REPORT{" in done, (page, done[-2000:])
    return json.loads(done.split(">REPORT")[-1].split("END<")[0].replace("&lt;", "<").replace("&amp;", "&"))
