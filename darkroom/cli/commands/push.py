"""``darkroom push``: upload a run to a repository of the Hugging Face hub."""

import argparse
import io
import json
import pickletools
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from darkroom.cli.commands.runs import format_size
from darkroom.errors import UsageError, UserError
from darkroom.report.card.contents import CardContents, read_contents
from darkroom.report.card.write import README, is_edited, license_of, notes_of, read_card, render_card, write_card
from darkroom.runtime.hub import HubRepository
from darkroom.runtime.records import past_tests, results, run_record
from darkroom.runtime.records.options import flatten, load_yaml
from darkroom.secrets import is_secret

_TEXTS = (".md", ".yaml", ".json", ".jsonl", ".csv", ".txt")


@dataclass(frozen=True)
class Upload:
    """Files of a push.

    Args:
        run: folder of the run.
        checkpoint: file in ``checkpoints`` of the run; None: best.ckpt, else last.ckpt.
        license: identifier of the hub; None: that of the card.
        include: patterns of more files, relative to the run folder.
        figures: upload the figures of the card.
    """

    run: Path
    checkpoint: Path | None = None
    license: str | None = None
    include: tuple[str, ...] = ()
    figures: bool = True

    def files(self) -> dict[str, Path | bytes]:
        """Return file or content by path in the repository; the card of the run is written again.

        Raises:
            UsageError: the run has no checkpoint, a pattern matches no file, or a file holds a secret.
        """
        contents = read_contents(self.run, self.checkpoint)
        if contents.checkpoint is None:
            raise UsageError(f"{self.run} has no checkpoint in checkpoints/, so there is nothing to share")
        if not (self.run / "config.yaml").is_file():
            raise UsageError(f"{self.run} has no config.yaml, without which its checkpoint cannot be used")
        names = ["config.yaml", "metrics.csv", past_tests.FILE, f"{results.FOLDER}/summary.json"]
        names += [path.as_posix() for path in (contents.checkpoint, *contents.exported)]
        names += [path.as_posix() for path in contents.figures.values() if self.figures]
        names += self._included()
        found: dict[str, Path | bytes] = {README: self._card(contents)}
        found |= {name: self.run / name for name in names if (self.run / name).is_file()}
        if contents.run.record:
            found[run_record.FILE] = public_record(contents.run.record)
        for name, content in found.items():
            require_no_secrets(name, content)
        return found

    def _card(self, contents: CardContents) -> bytes:
        """Return the card: as it was edited, or written again."""
        earlier = read_card(self.run)
        if earlier and is_edited(earlier):
            if self.license not in (None, license_of(earlier)):
                raise UsageError(
                    f"--license: the card of {self.run} was edited, so it is uploaded as it is; set license in its first "
                    "lines"
                )
            return earlier.encode()
        write_card(self.run, self.license, self.checkpoint)
        shown = contents if self.figures else replace(contents, figures={})
        return render_card(shown, self.license or license_of(earlier), notes_of(earlier)).encode()

    def _included(self) -> list[str]:
        found = []
        for pattern in self.include:
            try:
                matched = list(self.run.glob(pattern))
            except (NotImplementedError, ValueError):  # an absolute or empty pattern
                matched = []
            paths = [inner for path in matched for inner in (path.rglob("*") if path.is_dir() else [path])]
            inside = [path for path in paths if path.is_file() and path.resolve().is_relative_to(self.run.resolve())]
            if not inside:
                raise UsageError(f"--include {pattern} must match files in {self.run}, such as 'predictions/*.png'")
            found += [path.relative_to(self.run).as_posix() for path in inside]
        return found


def public_record(record: run_record.RunRecord) -> bytes:
    """Return the record of a fit as JSON, without the names of its machine and folders."""
    state = record.state if record.state != "running" else "stopped"
    shown = replace(record, command="", host="", pid=0, process_start=None, state=state)
    return (json.dumps(asdict(shown), indent=1) + "\n").encode()


def require_no_secrets(name: str, content: Path | bytes) -> None:
    """Raise a UsageError if a text or a checkpoint holds a password, a key or a token.

    Args:
        name: path in the repository.
        content: file, or its content.
    """
    if Path(name).name == "config.yaml" and isinstance(content, Path):
        pairs = _of_config(content)
    elif name.endswith(_TEXTS):
        pairs = _of_text(content)
    elif name.endswith(".ckpt") and isinstance(content, Path):
        pairs = _of_checkpoint(content)
    else:
        return
    for key, text in pairs:
        if is_secret(key, text):
            where = f" ({key})" if key else ""
            raise UsageError(
                f"{name}{where} holds a password, a key or a token; nothing was uploaded. Remove it, and replace it where "
                "it is valid"
            )


def _of_config(path: Path) -> Iterator[tuple[str, str]]:
    yield from _of_text(path)
    content = load_yaml(path)
    for key, value in flatten(content) if isinstance(content, Mapping) else ():
        if isinstance(value, str):
            yield key, value


def _of_text(content: Path | bytes) -> Iterator[tuple[str, str]]:
    data = content if isinstance(content, bytes) else content.read_bytes()
    yield "", data.decode("utf-8", "replace")


def _of_checkpoint(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the texts of a checkpoint; its pickle is read as a list of operations, of which none is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
        values = [value for pickle in pickles for _, value, _ in pickletools.genops(io.BytesIO(pickle))]
    except (zipfile.BadZipFile, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); it must be a checkpoint of a run") from error
    yield "", "\n".join(value for value in values if isinstance(value, str))


def find_run(path: Path) -> tuple[Path, Path | None]:
    """Return the folder of a run, and the checkpoint if the path is one.

    Raises:
        UsageError: the path does not exist, or is not in the folder ``checkpoints`` of a run.
    """
    if path.is_dir():
        return path, None
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give the folder of a run, such as runs/unet/0, or its checkpoint")
    if path.suffix != ".ckpt" or path.absolute().parent.name != "checkpoints":
        raise UsageError(f"{path} must be a checkpoint in the folder checkpoints of a run, or the folder of the run")
    return path.absolute().parents[1], path.absolute()


def list_files(files: Mapping[str, Path | bytes]) -> str:
    """Return sizes and paths of files, one a line, and their sum."""
    sizes = {name: len(one) if isinstance(one, bytes) else one.stat().st_size for name, one in files.items()}
    lines = [f"{format_size(size):>10}  {name}" for name, size in sorted(sizes.items())]
    return "\n".join([*lines, f"{format_size(sum(sizes.values())):>10}  in {len(files)} files"])


def main(argv: Sequence[str]) -> int:
    """Upload a run; return the exit code."""
    parser = argparse.ArgumentParser(
        "darkroom push",
        description="Upload a run to the Hugging Face hub: its card, config, checkpoint, metrics, figures and exported "
        "files. The token is read from HF_TOKEN or from `hf auth login`.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_OR_CKPT", help="folder of a run, or a checkpoint of it")
    parser.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create a private repository; refuse a public one")
    parser.add_argument("--license", metavar="ID", help="of the weights, such as apache-2.0; default: not stated")
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="more files or folders of the run, such as 'predictions/*.png' or predictions; may be given several times",
    )
    parser.add_argument(
        "--without_figures", action="store_true", help="leave out the figures, which show images of the data"
    )
    parser.add_argument("--dry_run", action="store_true", help="list the files, and upload nothing")
    options = parser.parse_args(argv)
    try:
        repository = HubRepository(options.repo_id)
        run, checkpoint = find_run(options.run)
        upload = Upload(run, checkpoint, options.license, tuple(options.include), not options.without_figures)
        files = upload.files()
        print(list_files(files))
        if options.dry_run:
            print(f"nothing was uploaded to {repository.address} (--dry_run)")
            return 0
        commit = repository.push(files, options.private, f"Upload {re.sub(r'[^ -~]', '?', run.absolute().parent.name)}")
        print(f"{repository.address}\ncommit: {commit}\nload it: darkroom pull {options.repo_id}")
    except KeyboardInterrupt:
        print("\ninterrupted; the repository is as it was", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"darkroom: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"darkroom: error: {options.run}: the files cannot be read ({error})", file=sys.stderr)
        return 1
    return 0
