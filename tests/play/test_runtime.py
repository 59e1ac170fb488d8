"""Files of onnxruntime-web: where they are looked for, and messages where they are missing; mistakes of the command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.errors import UsageError
from darkroom.play.runtime import ARCHIVE, find_runtime, require_runtime


def test_without_npm_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_runtime() is None
    with pytest.raises(
        UsageError, match=r"npm is not installed; install npm, or run `npm pack onnxruntime-web@1.30.0`"
    ):
        require_runtime()


def test_failing_npm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho offline >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/bin:/usr/bin")
    with pytest.raises(UsageError, match=r"npm failed \(offline\)"):
        require_runtime()


def test_another_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        require_runtime(tmp_path / ARCHIVE)
    (tmp_path / ARCHIVE).write_bytes(b"changed")
    with pytest.raises(UsageError, match="its SHA-512 is another one"):
        require_runtime(tmp_path / ARCHIVE)
    assert find_runtime() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone",), "gone does not exist"),
        (("run",), "best does not exist"),
        (("run", "--checkpoint", "my.ckpt"), "my.ckpt"),
    ],
)
def test_mistakes_end_in_one_message(darkroom: Callable, arguments: tuple[str, ...], message: str) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("{}")
    outcome = darkroom("play", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not Path("run/play").exists()
