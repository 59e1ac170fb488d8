"""Write the model card of a run, and keep what its user wrote."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from darkroom import __version__
from darkroom.report.card.contents import CardContents, read_contents
from darkroom.report.card.metadata import UNKNOWN_LICENSE, metadata
from darkroom.report.card.sections import sections

FILE = "card.md"  # in the run folder
README = "README.md"  # the card, in a repository of the hub
NEW_FILE = "card.new.md"  # beside a card that was edited by hand
_NOTES_START = "<!-- Text between this line and the next comment stays when Darkroom writes the card again. -->"
_NOTES_END = "<!-- End of the text that stays. -->"
_SEAL = re.compile(r"\n<!-- Written by Darkroom \S+, checksum ([0-9a-f]{64}) -->\s*$")
_NOTES = re.compile(f"{re.escape(_NOTES_START)}(.*?){re.escape(_NOTES_END)}", re.DOTALL)


def write_card(run_folder: Path, license: str | None = None, checkpoint: Path | None = None) -> Path:
    """Write the model card of a run from the files in its folder; return the path.

    The section "Notes" of an earlier card and its licence stay. A card that was edited outside of its notes is not
    replaced: the new text is written to ``card.new.md`` beside it.

    Args:
        run_folder: ``runs/<experiment>/<n>``.
        license: identifier of the hub, such as apache-2.0, of the weights; None: that of the earlier card.
        checkpoint: file that the card shows how to load; None: best.ckpt, else last.ckpt.

    Raises:
        UsageError: the folder is not that of a run.
        OSError: the card cannot be written.
    """
    path, new = run_folder / FILE, run_folder / NEW_FILE
    earlier = read_card(run_folder)
    text = render_card(read_contents(run_folder, checkpoint), license or license_of(earlier), notes_of(earlier))
    if path.is_file() and is_edited(earlier):
        path = new
    else:
        new.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def read_card(run_folder: Path) -> str:
    """Return the card of a run, of a run that was pulled its ``README.md``; empty without one."""
    paths = [run_folder / name for name in (FILE, README)]
    return next((path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()), "")


def render_card(contents: CardContents, license: str | None = None, notes: str = "") -> str:
    """Return the text of a card.

    Args:
        contents: of the run.
        license: identifier of the hub; None: not stated.
        notes: text of the user, Markdown.
    """
    head = yaml.safe_dump(metadata(contents, license), sort_keys=False, allow_unicode=True, width=120)
    body = "\n\n".join([*sections(contents, license), "## Notes", f"{_NOTES_START}{notes or _EMPTY}{_NOTES_END}"])
    text = f"---\n{head}---\n\n{body}\n"
    return f"{text}\n<!-- Written by Darkroom {__version__}, checksum {_checksum(text)} -->\n"


_EMPTY = "\n\n"


def notes_of(card: str) -> str:
    """Return the user's text of a card; empty without one."""
    found = _NOTES.search(card)
    return found[1] if found and found[1].strip() else ""


def license_of(card: str) -> str | None:
    """Return the licence in the front matter of a card; None if it states none."""
    found = front_matter(card).get("license")
    return found if isinstance(found, str) and found != UNKNOWN_LICENSE else None


def front_matter(card: str) -> Mapping[str, Any]:
    """Return the metadata of a card; empty if they are missing or damaged."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    try:
        content = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def is_edited(card: str) -> bool:
    """Return True if a card differs from what Darkroom wrote, outside of its notes."""
    seal = _SEAL.search(card)
    return seal is None or seal[1] != _checksum(card[: seal.start()])


def _checksum(text: str) -> str:
    plain = _NOTES.sub("", text)
    lines: Sequence[str] = [line.rstrip() for line in plain.strip().splitlines()]  # editors strip spaces
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
