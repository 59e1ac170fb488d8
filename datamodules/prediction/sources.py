"""Find the images and videos that ``data.predict`` names: files, folders, patterns, and lists of these."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from darkroom.datamodules.io.image_files import EXTENSIONS, describe_neighbours, list_images
from darkroom.datamodules.prediction.videos import VIDEO_EXTENSIONS
from darkroom.errors import DataError

_ACCEPTED = (*EXTENSIONS, *VIDEO_EXTENSIONS)


def find_sources(sources: str | Sequence[str]) -> list[Path]:
    """Return the files that sources name, each once: in the order of the sources, sorted within each.

    Args:
        sources: a file, a folder, whose subfolders count too, or a pattern such as ``photos/*.jpg``, where ``**`` stands
            for any subfolders; or a list of these.

    Raises:
        DataError: a source does not exist, or has neither images nor videos.
    """
    named = [sources] if isinstance(sources, str) else list(sources)
    if not named:
        raise DataError("data.predict must name at least one file, folder or pattern, got an empty list")
    found: dict[Path, Path] = {}
    for source in named:
        for path in _find(source):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _find(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() not in _ACCEPTED:
            raise DataError(f"data.predict: {source} must be an image or a video ({', '.join(_ACCEPTED)})")
        return [path]
    if path.is_dir():
        images = list_images(path, subfolders=True, extensions=_ACCEPTED)
    elif has_magic(source):
        matches = [Path(match) for match in sorted(glob(str(path), recursive=True))]
        images = [match for match in matches if match.suffix.lower() in _ACCEPTED and match.is_file()]
    else:
        raise DataError(
            f"data.predict: {source} does not exist; it must be a file, a folder, or a pattern such as 'photos/*.jpg'"
            f"{describe_neighbours(path)}"
        )
    if not images:
        raise DataError(
            f"data.predict: {source} has no images or videos ({', '.join(_ACCEPTED)}); add some, or give another folder "
            "or pattern"
        )
    return images
