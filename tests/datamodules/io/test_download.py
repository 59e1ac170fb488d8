"""Interrupted, resumed and corrupt downloads; malicious and truncated archives."""

import hashlib
import io
import re
import shutil
import socket
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from darkroom.datamodules.io.download import extract, fetch, fetch_folder
from darkroom.errors import DataError

CONTENT = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serve ``content`` at every address except /missing and record the Range of each request."""

    content = CONTENT
    supports_ranges = True
    max_bytes = len(CONTENT)  # bytes per response before the connection breaks

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/things.zip?download=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted, total = self.headers["Range"], len(self.server.content)
        self.server.ranges.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.server.supports_ranges else 0
        missing = self.path == "/missing"
        self.send_response(404 if missing else 200 if not start else 206 if start < total else 416)
        rest = b"" if missing else self.server.content[start:]
        span = f"{start}-{total - 1}" if start < total else "*"
        if start:
            self.send_header("Content-Range", f"bytes {span}/{total}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.max_bytes])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_fetch_downloads_once_and_verifies(server: Server, tmp_path: Path) -> None:
    sums = {"md5": hashlib.md5(CONTENT).hexdigest(), "sha256": hashlib.sha256(CONTENT).hexdigest().upper()}
    for _ in range(2):
        path = fetch(server.url, tmp_path / "deep/folder", **sums)
    assert path.read_bytes() == CONTENT
    assert [path.name] == [entry.name for entry in path.parent.iterdir()] == ["things.zip"]
    assert server.ranges == [None]


def test_fetch_resumes_broken_connection(server: Server, tmp_path: Path) -> None:
    server.max_bytes = 100_000
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]


@pytest.mark.parametrize(("supports_ranges", "sent"), [(True, len(CONTENT) - 1000), (False, len(CONTENT))])
def test_fetch_resumes_partial_file_or_restarts(
    server: Server, tmp_path: Path, supports_ranges: bool, sent: int
) -> None:
    server.supports_ranges, server.max_bytes = supports_ranges, sent
    (tmp_path / "things.zip.part").write_bytes(CONTENT[:1000])
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"of an older file"], ids=["whole", "too long"])
def test_complete_partial_file_is_finished(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "things.zip.part").write_bytes(part)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == (1 if part == CONTENT else 2)


def test_server_without_progress_raises(server: Server, tmp_path: Path) -> None:
    server.supports_ranges, server.max_bytes = False, 1000
    with pytest.raises(DataError, match=r"things.zip.*: the download stopped after 1000 bytes; run the command again"):
        fetch(server.url, tmp_path)
    assert not (tmp_path / "things.zip").exists()
    assert (tmp_path / "things.zip.part").stat().st_size == 1000


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_wrong_checksum_deletes_download(server: Server, tmp_path: Path, algorithm: str) -> None:
    with pytest.raises(DataError, match=rf"things.zip\S* has the {algorithm} [0-9a-f]+ instead of c0ffee; run"):
        fetch(server.url, tmp_path, **{algorithm: "c0ffee"})
    assert not list(tmp_path.glob("things*"))


def test_existing_file_is_verified_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "things.zip").write_bytes(b"something else")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "things.zip")) + " has the md5 .*; remove it"):
        fetch(server.url, tmp_path, md5=hashlib.md5(CONTENT).hexdigest())
    assert (tmp_path / "things.zip").read_bytes() == b"something else"
    assert server.ranges == []


def test_unreachable_address_names_target_path(server: Server, tmp_path: Path) -> None:
    wanted = f"cannot be downloaded .*{{}}.* put it at {tmp_path / 'missing'}"
    with pytest.raises(DataError, match=wanted.format("HTTP 404")):
        fetch(f"http://127.0.0.1:{server.server_port}/missing", tmp_path)
    with socket.socket() as closed:  # a bound port without listener
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(DataError, match=wanted.format("refused")):
            fetch(f"http://127.0.0.1:{closed.getsockname()[1]}/missing", tmp_path)


# --- archives ---------------------------------------------------------------------------------------------------------


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_tar])
GOOD = {"top/data/a.txt": b"a", "top/data/b.txt": b"b", "top/readme": b"r"}


@WRITERS
@pytest.mark.parametrize("inside", [".", "top/data"])
def test_extract_unpacks_requested_folder(tmp_path: Path, write: Callable, inside: str) -> None:
    folder = extract(write(tmp_path / "archive", GOOD), tmp_path / "to/here", inside)
    wanted = {name: content for name, content in GOOD.items() if inside == "." or name.startswith(inside)}
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {name.removeprefix(f"{inside}/"): content for name, content in wanted.items()}
    assert list((tmp_path / "to").iterdir()) == [folder]


@pytest.mark.fault("an archive that writes outside of its folder")
@WRITERS
@pytest.mark.parametrize("name", ["../out.txt", "top/../../../out.txt", "/tmp/darkroom-out.txt"])
def test_paths_outside_of_folder_raise(tmp_path: Path, write: Callable, name: str) -> None:
    archive = write(tmp_path / "archive", GOOD | {name: b"evil"})
    with pytest.raises(DataError, match="archive .*out.* do not trust it"):
        extract(archive, tmp_path / "a/b/c")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["archive"]
    assert not (tmp_path / "a/b/c").exists()


def test_absolute_paths_and_links_in_zip_raise(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("top/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for number, entry in enumerate((zipfile.ZipInfo(str(tmp_path / "out.txt")), link, zipfile.ZipInfo("..\\out.txt"))):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr(entry, "/etc")
        with pytest.raises(DataError, match="do not trust it"):
            extract(tmp_path / f"{number}.zip", tmp_path / "here")
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.fault("an archive with links or devices")
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_tar_raise(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("top/odd")
    info.type, info.linkname = kind, "../../../out.txt"
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        archive.addfile(info)
    with pytest.raises(DataError, match="do not trust it"):
        extract(tmp_path / "odd.tar", tmp_path / "here")
    assert not (tmp_path / "here").exists()


@WRITERS
def test_truncated_archive_raises(tmp_path: Path, write: Callable) -> None:
    archive = write(tmp_path / "archive", {f"top/{i}": hashlib.sha256(bytes([i])).digest() * 400 for i in range(50)})
    archive.write_bytes(archive.read_bytes()[:-3000])
    with pytest.raises(DataError, match="archive cannot be unpacked .* remove it to download it again"):
        extract(archive, tmp_path / "here")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_content_is_verified_before_use(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "archive.zip", GOOD)

    def check(folder: Path) -> None:
        assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt"]
        raise DataError("c.txt is missing")

    with pytest.raises(DataError, match="c.txt is missing"):
        extract(archive, tmp_path / "here", "top/data", check)
    with pytest.raises(DataError, match="archive.zip has no folder top/other"):
        extract(archive, tmp_path / "here", "top/other")
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]


def test_existing_folder_needs_no_download(server: Server, tmp_path: Path) -> None:
    server.content = write_zip(tmp_path / "source.zip", GOOD).read_bytes()
    for _ in range(2):
        fetch_folder(server.url, tmp_path / "data/here", "top/data")
    assert (tmp_path / "data/here/a.txt").read_text() == "a"
    assert server.ranges == [None]


@pytest.mark.fault("an archive that is not the one that was published")
def test_wrong_checksum_prevents_extraction(server: Server, tmp_path: Path) -> None:
    server.content = write_zip(tmp_path / "source.zip", GOOD).read_bytes()
    with pytest.raises(DataError, match="has the sha256 .* instead of c0ffee"):
        fetch_folder(server.url, tmp_path / "data/here", "top/data", sha256="c0ffee")
    assert list((tmp_path / "data").iterdir()) == []


@WRITERS
def test_archive_larger_than_free_space_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable
) -> None:
    archive = write(tmp_path / "archive", {"top/zeros": bytes(10_000)})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=9_999))
    with pytest.raises(DataError, match="archive unpacks to .* GB free; free some space"):
        extract(archive, tmp_path / "here")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]
