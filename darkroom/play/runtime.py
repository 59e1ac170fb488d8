"""Files of onnxruntime-web (MIT), which runs ONNX models in a browser; npm fetches them once."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darkroom.errors import UsageError
from darkroom.paths import user_cache

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
_SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
# The build for WASM alone, the smallest one: 14 MB, where those with WebGPU have 17 to 28 MB.
_SCRIPT, _BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"


@dataclass(frozen=True)
class Runtime:
    """Files that a page embeds.

    Args:
        script: ES module of onnxruntime-web.
        binary: WebAssembly.
    """

    script: Path
    binary: Path


def find_runtime() -> Runtime | None:
    """Return the files in the user's cache; None: they are not there."""
    folder = user_cache("play") / f"{PACKAGE}-{VERSION}"
    found = Runtime(folder / _SCRIPT, folder / _BINARY)
    return found if found.script.is_file() and found.binary.is_file() else None


def require_runtime(archive: Path | None = None) -> Runtime:
    """Return the files, from the cache or else fetched by npm.

    Args:
        archive: the package's file, for machines without npm or network; it is unpacked into the cache.

    Raises:
        UsageError: npm is missing or fails, or the archive is another one.
    """
    if archive is not None:
        return unpack(archive)
    found = find_runtime()
    if found is not None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        return unpack(_fetch(Path(folder)))


def _fetch(folder: Path) -> Path:
    """Download the package's file by npm into a folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(_advise("npm is not installed"))
    print(f"npm fetches {PACKAGE} {VERSION} (33 MB), once", file=sys.stderr)
    command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    path = folder / ARCHIVE
    if done.returncode or not path.is_file():
        raise UsageError(_advise(f"npm failed ({(done.stderr.strip() or 'no file').splitlines()[-1]})"))
    return path


def _advise(reason: str) -> str:
    return (
        f"the playground needs {PACKAGE} {VERSION}, but {reason}; install npm, or run `npm pack {PACKAGE}@{VERSION}` on "
        f"another machine and add --runtime {ARCHIVE}"
    )


def unpack(archive: Path) -> Runtime:
    """Unpack the package's file into the cache; a reader never sees a part of a file.

    Raises:
        UsageError: the file is missing, or is not the package in this version.
    """
    if not archive.is_file():
        raise UsageError(f"runtime {archive} does not exist; it must be the file {ARCHIVE}")
    if hashlib.sha512(archive.read_bytes()).hexdigest() != _SHA512:
        raise UsageError(f"runtime {archive} must be {ARCHIVE} as published; its SHA-512 is another one")
    folder = user_cache("play") / f"{PACKAGE}-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as package:
        for name in (_SCRIPT, _BINARY):
            content = package.extractfile(f"package/dist/{name}")
            assert content is not None, name  # the hash is right
            part = folder / f"{name}.part"
            part.write_bytes(content.read())
            part.replace(folder / name)
    return Runtime(folder / _SCRIPT, folder / _BINARY)


def main(argv: Sequence[str]) -> int:
    """Fetch the files for ``make playground-runtime``; return the exit code."""
    try:
        print(require_runtime(Path(argv[0]) if argv else None).script.parent)
    except UsageError as error:
        print(f"darkroom: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
