"""A page in headless Chromium, driven by its DevTools protocol through a pipe: scripts, screenshots, errors, requests."""

import base64
import itertools
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser import BROWSER

_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
_OPTIONS += ["--proxy-server=127.0.0.1:9"]  # a proxy that is not there: nothing reaches another machine
_IDLE_SCHEMES = ("data:", "blob:")


class Page:
    """Open page.

    Args:
        write, read: pipe to and from the browser, of messages that end with a zero byte.

    Attributes:
        problems: errors of scripts, messages of the console, and refused requests.
        requests: addresses that the page asked for, without data: and blob:.
    """

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._rest = write, read, b""
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank", session=None)["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True, session=None)
        self._session: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Open an address."""
        self._call("Page.navigate", url=address)

    def run(self, script: str, seconds: float = 120) -> Any:
        """Return the value of an expression; of a promise, what it resolves to.

        Raises:
            AssertionError: the script throws.
        """
        found = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, seconds=seconds
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def processor_time(self) -> float:
        """Return the seconds of processor time that all processes of the browser have used."""
        return sum(one["cpuTime"] for one in self._call("SystemInfo.getProcessInfo", session=None)["processInfo"])

    def resize(self, width: int, height: int = 900) -> None:
        """Set the size of the window, in pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def set_scheme(self, scheme: str) -> None:
        """Set the preferred colours: light or dark."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def press(self, key: str) -> None:
        """Press and release a key, such as ArrowRight."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def _call(self, method: str, seconds: float = 120, session: str | None = "", **options: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": options}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while True:
            answer = self._receive(end)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            some = os.read(self._read, 1 << 20)
            assert some, "the browser ended"
            self._rest += some
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: str, given: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(given["exceptionDetails"])[:500])
        elif event == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(given["args"])[:500])
        elif event == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.problems.append(given["entry"]["text"])
        elif event == "Network.requestWillBeSent" and not given["request"]["url"].startswith(_IDLE_SCHEMES):
            self.requests.append(given["request"]["url"])


@contextmanager
def open_browser() -> Iterator[Page]:
    """Start Chromium with an empty page."""
    assert BROWSER is not None
    to_read, write = os.pipe()
    read, to_write = os.pipe()

    def place() -> None:  # Chromium reads from file 3 and writes to file 4
        source, sink = os.dup(to_read), os.dup(to_write)
        os.dup2(source, 3)
        os.dup2(sink, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [BROWSER, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        try:
            yield Page(write, read)
        finally:
            process.terminate()
            process.wait(20)
            os.close(write)
            os.close(read)
