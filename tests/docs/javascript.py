"""The mathematics of the explainers, run by Node, or by Chromium where Node is missing."""

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.browser import BROWSER, dump

MATHS = Path(__file__).parents[2] / "docs/javascripts/explainers/maths"
NODE = shutil.which("node")
RUNS = NODE or BROWSER


def evaluate(function: str, data: Any = None) -> Any:
    """Apply a JavaScript function, which may use ``explainers``, to data; return its value, by way of JSON.

    Numbers that are not finite become None.
    """
    maths = "\n".join(path.read_text(encoding="utf-8") for path in sorted(MATHS.glob("*.js")))
    value = f"JSON.stringify(({function})({json.dumps(data)}))"
    if NODE:
        script = f"{maths}\nprocess.stdout.write({value});"
        done = subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    with TemporaryDirectory() as folder:
        page = Path(folder, "maths.html")
        script = f"{maths}\ndocument.body.textContent = 'REPORT' + {value} + 'END';"
        page.write_text(f"<body></body><script>{script}</script>", encoding="utf-8")
        return json.loads(dump(page, milliseconds=1000).split("REPORT")[-1].split("END")[0])
