"""Read text files in the encodings that tools write."""

import codecs
import re
from pathlib import Path

from darkroom.errors import DataError

# The longest first: the mark of UTF-32 begins with that of UTF-16. Notepad and PowerShell write these.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path, content: str) -> str:
    """Read a text file: UTF-8, or the encoding of its byte order mark.

    Args:
        path: the file.
        content: what it must have, for messages.

    Raises:
        DataError: the file is not text in these encodings.
    """
    raw = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "utf-8-sig")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}); it must be {content} in UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path} is not text (it has zero bytes); it must be {content} in UTF-8")
    return text


def read_lines(path: Path, content: str) -> list[str]:
    """Read the lines of a text file with line ends of any system; see ``read_text``."""
    return re.split(r"\r\n|\r|\n", read_text(path, content))
