"""CaptionFolder: your own images with captions, in a folder with a table."""

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from darkroom.datamodules.base import LABELLED_SPLITS, LabelledSplit
from darkroom.datamodules.captions.base import CaptionDataModule, CaptionedFile
from darkroom.datamodules.captions.caption_text import captions_in
from darkroom.datamodules.io.pairing import check_fractions
from darkroom.errors import DataError, UsageError

TABLES = ("captions.tsv", "captions.csv", "captions.jsonl")
_CELL = re.compile(r'(?:^|\t)(?:"((?:[^"]|"")*)"(?=\t|$)|([^\t]*))')  # quoted as a whole, or literal
_NAMED = 5  # rows that a message lists


class Row(NamedTuple):
    """Row of the table, with the number of its line, from 1."""

    line: int
    cells: dict[str, Any]


def read_table(path: Path) -> list[Row]:
    """Read the rows of a ``.tsv`` or ``.csv`` whose first line has the names, or of a ``.jsonl`` with an object per line.

    In a ``.tsv`` a row is one line, and quotes are literal except around a whole cell. In a ``.csv`` a cell in quotes
    may hold commas and line breaks.

    Raises:
        DataError: the file is missing, has another format, or has a damaged line.
    """
    readers = {".tsv": _tab_separated, ".csv": _comma_separated, ".jsonl": _objects}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: the table of captions must be one of {', '.join(readers)}; check data.table")
    try:
        return list(readers[path.suffix.lower()](path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DataError(f"{path} does not exist; data.table must name a table in data.root") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not valid UTF-8 ({error}); save it as UTF-8") from error


def _tab_separated(path: Path) -> Iterator[Row]:
    names, opened = None, None  # the line whose last cell opens with a quote: a line break may have cut it
    with path.open(newline="\n", encoding="utf-8-sig") as file:
        for line, text in enumerate((text.rstrip("\r\n") for text in file), 1):
            cells = [quoted.replace('""', '"') or plain for quoted, plain in _CELL.findall(text)]
            if not text:
                continue
            if names is None:
                names = cells
            elif len(cells) == len(names):
                yield Row(line, dict(zip(names, cells, strict=True)))
            else:
                raise DataError(
                    f"{path}, line {opened or line}: damaged row (line {line} has {len(cells)} of {len(names)} cells); a "
                    "row of a .tsv must be one line, without line breaks in its cells"
                )
            opened = line if cells[-1].startswith('"') else None


def _comma_separated(path: Path) -> Iterator[Row]:
    names, line = None, 1
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if names is not None and cells:
                    if len(cells) != len(names):
                        raise csv.Error(f"{len(cells)} of {len(names)} cells")
                    yield Row(line, dict(zip(names, cells, strict=True)))
                names, line = names or cells or None, reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}: the row that begins in line {line} is damaged ({error}); a cell with commas, quotes or line "
                'breaks must be written as "a ""red"" circle, or so"'
            ) from error


def _objects(path: Path) -> Iterator[Row]:
    with path.open(newline="\n", encoding="utf-8-sig") as file:  # captions may contain other line separators
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                cells = json.loads(text)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: invalid JSON ({error}); correct it") from error
            if not isinstance(cells, dict):
                raise DataError(
                    f"{path}, line {line}: must be an object such as " + '{"file": "a.png", "caption": "a"}'
                )
            yield Row(line, cells)


def _some_values(rows: list[Row], column: str) -> list[str]:
    return list(dict.fromkeys(str(row.cells.get(column)) for row in rows))[:10]


class CaptionFolder(CaptionDataModule):
    """Your own images with captions: ``root/captions.tsv`` (or ``.csv``, ``.jsonl``) beside the images.

    A row has the file of an image and its caption; the first line names the columns. An image may have several captions:
    in several columns, in several rows, or in a list of a ``.jsonl``. A column gives the splits, or they are random. Random
    splits put images with the same (first) caption into one split, so no caption of evaluation occurs in training.

    Args:
        root: folder of the images and the table.
        table: file of the table, in ``root``; None: captions.tsv, captions.csv or captions.jsonl.
        image_column: column of an image's file, relative to ``root``.
        caption_columns: columns of captions; evaluation uses the first that is not empty.
        split_column: column with train, val or test; None: random splits.
        keep: values by column, such as {style: noto}; other rows are dropped.
        val_fraction, test_fraction: sizes of the splits that the table lacks, as fractions of the training captions,
            chosen by ``seed``.
        size, channels, background, flip, max_words, limit, mean, std: see ``CaptionDataModule``.
    """

    def __init__(
        self,
        root: str = "images",
        table: str | None = None,
        image_column: str = "file",
        caption_columns: Sequence[str] = ("caption",),
        split_column: str | None = None,
        keep: dict[str, str] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.table_name = Path(root), table
        self.image_column, self.caption_columns, self.split_column = image_column, caption_columns, split_column
        self.keep, self.fractions = keep or {}, {"val": val_fraction, "test": test_fraction}
        if isinstance(caption_columns, str):
            raise UsageError(f"data.caption_columns must be a list, [{caption_columns}], got {caption_columns!r}")
        if not caption_columns:
            raise UsageError("data.caption_columns is empty; it must have one column at least")
        check_fractions(self.fractions)

    @cached_property
    def table(self) -> Path:
        """File of the table."""
        if not self.root.is_dir():
            raise DataError(f"data.root must be a folder with the images and a table of captions, got {self.root}")
        if self.table_name is not None:
            return self.root / self.table_name
        found = [name for name in TABLES if (self.root / name).is_file()]
        if not found:
            raise DataError(f"{self.root} has none of {', '.join(TABLES)}; add one, or set data.table")
        if len(found) > 1:
            raise UsageError(f"{self.root} has {' and '.join(found)}; set data.table to one of them")
        return self.root / found[0]

    @cached_property
    def rows(self) -> list[Row]:
        """Rows that match ``keep``, each with all configured columns."""
        rows = read_table(self.table)
        if not rows:
            raise DataError(f"{self.table} is empty; it must have a row for every image")
        asked = {"image_column": [self.image_column], "caption_columns": self.caption_columns, "keep": self.keep}
        asked["split_column"] = [self.split_column] if self.split_column else []
        columns = dict.fromkeys(name for row in rows for name in row.cells)
        hint = "" if self.table.suffix.lower() == ".jsonl" else " (the first line of the table names the columns)"
        for setting, names in asked.items():
            for name in names:
                if name not in columns:
                    raise UsageError(
                        f"data.{setting}: {self.table} has no column {name}; it must be one of {', '.join(columns)}{hint}"
                    )
        kept = [row for row in rows if all(str(row.cells.get(name)) == value for name, value in self.keep.items())]
        if not kept:
            found = "; ".join(f"{name}: {', '.join(_some_values(rows, name))}" for name in self.keep)
            raise UsageError(
                f"data.keep {self.keep} matches none of the {len(rows)} rows of {self.table}; the columns have {found}"
            )
        return kept

    @cached_property
    def images(self) -> dict[CaptionedFile, str | None]:
        """Split of each image, in the order of the table; None: the table gives no split."""
        found: dict[Path, tuple[dict[str, None], str | None]] = {}
        missing: list[str] = []
        for line, cells in self.rows:
            path, split = self.root / str(cells.get(self.image_column, "")), self._read_split(line, cells)
            if path not in found and not path.is_file():
                missing.append(f"line {line}: {cells.get(self.image_column) or 'no file'}")
            texts = [text for column in self.caption_columns for text in captions_in(cells.get(column))]
            if not texts:
                raise DataError(
                    f"{self.table}, line {line}: {path} has no caption ({', '.join(self.caption_columns)}); add "
                    "one, or remove the row"
                )
            known, before = found.setdefault(path, ({}, split))
            if before != split:
                raise DataError(
                    f"{self.table}, line {line}: {path} is in {split}, but in {before} in an earlier line; remove one"
                )
            known.update(dict.fromkeys(texts))  # each once, in order
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise DataError(
                f"{self.table}: {len(missing)} of {len(self.rows)} rows have no image "
                f"({'; '.join(missing[:_NAMED])}{more}); the files must be in {self.root}"
            )
        return {CaptionedFile(path, tuple(texts)): split for path, (texts, split) in found.items()}

    def _read_split(self, line: int, cells: dict[str, Any]) -> str | None:
        split = cells.get(self.split_column) if self.split_column else None
        if self.split_column and split not in LABELLED_SPLITS:
            raise DataError(
                f"{self.table}, line {line}: the split must be one of {', '.join(LABELLED_SPLITS)}, got {split!r}"
            )
        return split

    def _split_captions(self, files: list[CaptionedFile], fractions: dict[str, float]) -> dict[str, str]:
        """Assign a split to each first caption by its hash; few change when images are added."""
        first = {file.captions[0] for file in files}
        order = sorted(first, key=lambda caption: hashlib.sha256(f"{self.seed}/{caption}".encode()).digest())
        splits, start = dict.fromkeys(order, "train"), 0
        for split, fraction in fractions.items():
            stop = start + round(fraction * len(order))
            splits |= dict.fromkeys(order[start:stop], split)
            start = stop
        return splits

    def files(self, split: LabelledSplit) -> list[CaptionedFile]:
        """Return the images of a split, given by the table or chosen at random.

        Raises:
            UsageError: the split is empty.
        """
        given = set(self.images.values()) - {None}
        if split != "train" and split in given:
            return [file for file, of in self.images.items() if of == split]
        remaining = [file for file, of in self.images.items() if of in (None, "train")]
        fractions = {name: fraction for name, fraction in self.fractions.items() if name not in given}
        chosen = self._split_captions(remaining, fractions)
        files = [file for file in remaining if chosen[file.captions[0]] == split]
        if not files:
            blamed = fractions if split == "train" else [split]
            settings = " and ".join(f"data.{name}_fraction {fractions[name]}" for name in blamed)
            raise UsageError(
                f"{settings or 'data.split_column'} leaves none of {len(self.images)} images for {split}; change it, "
                "or give every split in a column of the table (data.split_column)"
            )
        return files
