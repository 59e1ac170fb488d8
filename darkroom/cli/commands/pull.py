"""``darkroom pull``: download a run from a repository of the Hugging Face hub."""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from darkroom.errors import UsageError, UserError
from darkroom.report.card.contents import EXPORTED
from darkroom.runtime.hub import HubRepository

_MARK = ".cache/huggingface"  # in a folder that was pulled
# Files that a run has. All others, such as Python files and pickles, stay on the hub: they are code of a stranger.
_WANTED = (
    *("README.md", "*.yaml", "*.json", "*.jsonl", "*.csv", "checkpoints/*.ckpt"),
    *(f"*{suffix}" for suffix in EXPORTED),
    "*.data",
    *(f"*.{suffix}" for suffix in ("png", "jpg", "gif", "svg", "pdf", "txt", "mp4")),
)


def is_wanted(name: str) -> bool:
    """Return True for a path in a repository that ``darkroom pull`` downloads."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and any(fnmatchcase(name, pattern) for pattern in _WANTED)


def pull(repo_id: str, revision: str | None, folder: Path) -> list[str]:
    """Download a run into a folder; return lines to print.

    Raises:
        UsageError: the folder holds other files.
        UserError: the hub refuses the request or cannot be reached, or the repository has no checkpoint.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file; give another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).is_dir():
        raise UsageError(f"--output {folder} holds files that darkroom pull did not write; give another folder")
    repository = HubRepository(repo_id)
    commit, names = repository.list_files(revision)
    names = list(filter(is_wanted, names))
    checkpoints = [name for name in names if name.endswith(".ckpt")]
    if "config.yaml" not in names or not checkpoints:
        raise UsageError(
            f"{repo_id} must have config.yaml and checkpoints/*.ckpt, as darkroom push uploads them; it has "
            f"{', '.join(names[:5]) or 'no such files'}"
        )
    repository.download(commit, names, folder)
    best = next((name for name in checkpoints if name.endswith("best.ckpt")), checkpoints[0])
    return [f"{folder}: {len(names)} files of commit {commit[:10]}", f"darkroom predict --ckpt_path {folder / best}"]


def main(argv: Sequence[str]) -> int:
    """Download a run; return the exit code."""
    parser = argparse.ArgumentParser(
        "darkroom pull",
        description="Download a run from the Hugging Face hub. Python files and other code in the repository are not "
        "downloaded, and checkpoints are read as tensors and plain values.",
    )
    parser.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME")
    parser.add_argument("--revision", help="branch, tag or commit; default: main")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: NAME")
    options = parser.parse_args(argv)
    folder = options.output or Path(options.repo_id.rpartition("/")[2])
    try:
        print(*pull(options.repo_id, options.revision, folder), sep="\n")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command downloads what is missing", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"darkroom: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"darkroom: error: {folder} cannot be written ({error})", file=sys.stderr)
        return 1
    return 0
