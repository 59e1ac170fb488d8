"""Download data sets; interrupted downloads resume, and archives are unpacked completely or not at all."""

import gzip
import hashlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from darkroom.errors import DataError

_TIMEOUT = 60  # seconds without a byte
_CHUNK = 1 << 20


def _receive(response: HTTPResponse, part: Path) -> bool:
    """Append a response to ``part``, or overwrite it if the server starts again; return whether it is complete."""
    start = part.stat().st_size if response.status == 206 else 0
    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    bar = tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True, disable=None)
    with part.open("ab" if start else "wb") as file, bar:
        try:
            while chunk := response.read1(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        except (HTTPException, ConnectionError, TimeoutError):
            return False
    return total in (None, part.stat().st_size)


def _download(url: str, part: Path) -> None:
    """Download to ``part``. An interrupted transfer resumes as long as each attempt adds bytes."""
    while True:
        have = part.stat().st_size if part.is_file() else 0
        headers = {"User-Agent": "darkroom"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with urlopen(Request(url, headers=headers), timeout=_TIMEOUT) as response:
                if _receive(response, part):
                    return
        except HTTPError as error:
            if error.code != 416 or not have:
                raise _unreachable(url, part, f"HTTP {error.code} {error.reason}") from error
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return  # interrupted between the last byte and the renaming
            part.unlink()  # longer than the file on the server, which changed
            continue
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            raise _unreachable(url, part, str(error.reason if isinstance(error, URLError) else error)) from error
        size = part.stat().st_size
        if size <= have:
            raise DataError(f"{url}: the download stopped after {size} bytes; run the command again to resume it")


def _unreachable(url: str, part: Path, reason: str) -> DataError:
    return DataError(
        f"{url} cannot be downloaded ({reason}); try again later, or get it elsewhere and put it at {part.with_suffix('')}"
    )


def _mismatch(path: Path, checksums: dict[str, str | None]) -> str:
    """Describe how a file's checksums, by algorithm, differ from the expected ones; empty if they do not."""
    for algorithm, expected in checksums.items():
        digest = hashlib.new(algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while expected and (chunk := file.read(_CHUNK)):
                digest.update(chunk)
        if expected and digest.hexdigest() != expected.lower():
            return f"has the {algorithm} {digest.hexdigest()} instead of {expected}"
    return ""


def fetch(url: str, folder: Path, sha256: str | None = None, md5: str | None = None) -> Path:
    """Download a file into ``folder`` under its name in the URL; a file that exists is only verified.

    An interrupted download stays as ``NAME.part``. The next call resumes it if the server supports HTTP Range, else starts
    from the beginning. ``NAME`` appears once it is complete and its checksum, if given, is correct. Without a checksum only
    the length is verified; then the caller should check the content of the archive (``check`` of ``extract``).

    Raises:
        DataError: the file cannot be downloaded, or its checksum is wrong.
    """
    path = folder / PurePosixPath(urlsplit(url).path).name
    checksums = {"sha256": sha256, "md5": md5}
    if path.is_file():
        if wrong := _mismatch(path, checksums):
            raise DataError(f"{path} {wrong}; remove it to download it again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _download(url, part)
    if wrong := _mismatch(part, checksums):
        part.unlink()  # a resume would not repair it
        raise DataError(f"{url} {wrong}; run the command again, or get it elsewhere and put it at {path}")
    return part.replace(path)


def _refuse_odd(archive: Path, name: str, plain: bool) -> None:
    """Raise a DataError for an entry that is not a plain file or folder, or is outside of the target folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not plain or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive} has {name}, a link, a device or a path outside of its folder; do not trust it")


def _refuse_too_large(archive: Path, folder: Path, size: int) -> None:
    """Raise a DataError for an archive whose content does not fit on the disk; small ones may hold terabytes."""
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise DataError(
            f"{archive} unpacks to {size / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB free; free some "
            "space, or do not trust the archive if it should be smaller"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar; raise a DataError for a path outside of ``folder``."""
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                _refuse_odd(archive, member.name, member.isfile() or member.isdir())
            _refuse_too_large(archive, folder, sum(member.size for member in tar))
            if hasattr(tarfile, "data_filter"):  # absent in Debian 12's Python 3.11.2
                tar.extractall(folder, filter="data")
            else:
                tar.extractall(folder)
        return
    with zipfile.ZipFile(archive) as entries:
        for entry in entries.infolist():
            _refuse_odd(archive, entry.filename, not stat.S_ISLNK(entry.external_attr >> 16))
        _refuse_too_large(archive, folder, sum(entry.file_size for entry in entries.infolist()))
        entries.extractall(folder)


def extract(archive: Path, folder: Path, inside: str = ".", check: Callable[[Path], object] | None = None) -> Path:
    """Unpack the folder ``inside`` of a zip or tar as ``folder``, which appears once it is complete.

    ``check`` is called with the unpacked folder before and raises if it is invalid. This verifies an archive without a
    published checksum.

    Raises:
        DataError: the archive is damaged or unsafe, or lacks the folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unpacked = Path(temporary, "unpacked")
        try:
            _unpack(archive, unpacked)
        except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
            reason = str(error).split("\n")[0]
            raise DataError(f"{archive} cannot be unpacked ({reason}); remove it to download it again") from error
        if not (unpacked / inside).is_dir():
            raise DataError(f"{archive} has no folder {inside}; remove it to download the right archive")
        if check is not None:
            check(unpacked / inside)
        (unpacked / inside).rename(folder)
    return folder


def fetch_folder(
    url: str,
    folder: Path,
    inside: str,
    sha256: str | None = None,
    md5: str | None = None,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Download and unpack ``folder`` from the archive at ``url``, which stays beside it, unless the folder exists."""
    if not folder.is_dir():
        extract(fetch(url, folder.parent, sha256, md5), folder, inside, check)
