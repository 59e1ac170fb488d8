"""CaptionFolder: supported tables, and errors that name what is missing."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.datamodules.captions.caption_folder import CaptionFolder
from darkroom.errors import DataError, UsageError
from tests.contracts.captions import CaptionedDataContract
from tests.fakes.captions import caption_folder, caption_of
from tests.fakes.labelled import flat_folder


class TestTable(CaptionedDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> CaptionFolder:
        columns = ("caption", "also")
        return CaptionFolder(root=str(caption_folder(tmp_path)), size=16, caption_columns=columns, **kwargs)

    def test_images_have_their_own_captions(self, data: CaptionFolder) -> None:
        files = [file for split in ("train", "val", "test") for file in data.files(split)]
        assert len(files) == 20
        for path, captions in files:
            index = int(path.stem.removeprefix("picture"))
            assert captions == ((caption_of(index), f"number {index}") if index % 2 else (caption_of(index),))

    def test_training_samples_a_caption_and_evaluation_takes_first(self, data: CaptionFolder) -> None:
        loader, seen = data.train_dataloader(), set()
        for epoch in range(10):
            loader.sampler.set_epoch(epoch)
            seen |= {caption for batch in loader for caption in batch["caption"]}
        assert seen == {caption for file in data.files("train") for caption in file.captions}
        for split in ("val", "test"):
            captions = [sample["caption"] for sample in data.dataset(split)]
            assert captions == [file.captions[0] for file in data.files(split)]


def table(folder: Path, lines: list[str], name: str = "captions.tsv", **kwargs: Any) -> CaptionFolder:
    """Write images picture0.png to picture9.png in folder/images and a table."""
    if not folder.is_dir():
        flat_folder(folder)
    (folder / name).write_text("\n".join(lines) + "\n")
    return CaptionFolder(root=str(folder), table=name, size=8, **kwargs)


def test_splits_share_no_caption(tmp_path: Path) -> None:
    """Check that images with the same caption are in one split."""
    lines = ["file\tcaption", *(f"picture{index}.png\tkind {index // 2}" for index in range(10))]
    data = table(tmp_path / "a", lines, val_fraction=0.2, test_fraction=0.2)
    captions = {split: {file.captions for file in data.files(split)} for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in captions.items()} == {"train": 3, "val": 1, "test": 1}
    assert len(set.union(*captions.values())) == 5
    other = table(tmp_path / "b", lines, val_fraction=0.2, test_fraction=0.2, seed=2)
    assert {file.captions for file in other.files("val")} != captions["val"]


def test_rows_of_one_image_are_merged(tmp_path: Path) -> None:
    lines = ["image,text", 'picture0.png,"a ""quoted"", thing"', "picture1.png,b", "picture0.png,another"]
    data = table(tmp_path / "a", lines, "captions.csv", image_column="image", caption_columns=["text"])
    assert [file.captions for file in data.images] == [('a "quoted", thing', "another"), ("b",)]


def test_tsv_keeps_quotes(tmp_path: Path) -> None:
    message = ['a 5" nail', '"red" it says', '"open', '6" "deep"', 'shut"']
    lines = ["file\tcaption", *(f"picture{index}.png\t{text}" for index, text in enumerate(message))]
    assert [file.captions for file in table(tmp_path / "a", lines).images] == [(text,) for text in message]


def test_tsv_of_csv_writer_is_read_back(tmp_path: Path) -> None:
    message = ['a "red"', '"red" it says', '"all of it"', 'one\ttab, and "that"', '"', "plain"]
    text = io.StringIO()
    rows = [["file", "caption"], *([f"picture{index}.png", caption] for index, caption in enumerate(message))]
    csv.writer(text, dialect="excel-tab").writerows(rows)
    data = table(tmp_path / "a", [text.getvalue()])
    assert [row.cells["caption"] for row in data.rows] == message
    assert [row.line for row in data.rows] == [2, 3, 4, 5, 6, 7]


def test_damaged_row_names_first_line(tmp_path: Path) -> None:
    folder, first = tmp_path / "a", ["file\tcaption", "picture0.png\ta"]
    for cut in (['picture1.png\t"b', 'c"'], ['picture1.png\t"b', "", 'c"\tmore\t']):
        with pytest.raises(DataError, match=r"captions.tsv, line 3: damaged row .line [45] has . of 2 cells.*one line"):
            table(folder, [*first, *cut]).setup("fit")
    lines = ["file,caption", 'picture0.png,"a', 'b"', 'picture1.png,"a', 'picture2.png,"b"']
    with pytest.raises(DataError, match=r"captions.csv: the row that begins in line 4 is damaged .* must be written"):
        table(folder, lines, "captions.csv").setup("fit")
    assert table(folder, lines[:3], "captions.csv").rows == [(2, {"file": "picture0.png", "caption": "a\nb"})]


def test_existing_table_is_found(tmp_path: Path) -> None:
    for name, lines in {"captions.csv": ["file,caption", "picture0.png,a"], "captions.tsv": ["file\tcaption"]}.items():
        table(tmp_path / "a", lines, name)
        if name == "captions.csv":
            assert [file.captions for file in CaptionFolder(root=str(tmp_path / "a")).images] == [("a",)]
    with pytest.raises(UsageError, match="a has captions.tsv and captions.csv; set data.table to one of them"):
        CaptionFolder(root=str(tmp_path / "a")).setup("fit")


def test_jsonl_is_read(tmp_path: Path) -> None:
    rows = [{"file_name": "picture0.png", "text": ["a", "b"]}, {"file_name": "picture1.png", "text": "c"}]
    lines = [json.dumps(row) for row in rows]
    data = table(tmp_path / "a", lines, "metadata.jsonl", image_column="file_name", caption_columns=["text"])
    assert [file.captions for file in data.images] == [("a", "b"), ("c",)]
    long = json.dumps({"file": "picture0.png", "caption": "a\u2028b"}, ensure_ascii=False)
    rows = table(tmp_path / "b", [long, "", long], "captions.jsonl").rows
    assert [row.line for row in rows] == [1, 3]
    with pytest.raises(DataError, match=r"metadata.jsonl, line 2: invalid JSON"):
        _ = table(tmp_path / "a", [lines[0], "{"], "metadata.jsonl", image_column="file_name").images


def test_splits_are_read_from_column(tmp_path: Path) -> None:
    splits = ["train"] * 6 + ["test"] * 4
    lines = ["file\tcaption\tpart", *(f"picture{i}.png\t{caption_of(i)}\t{split}" for i, split in enumerate(splits))]
    data = table(tmp_path / "a", lines, split_column="part", val_fraction=0.5)
    assert [len(data.files(split)) for split in ("train", "val", "test")] == [3, 3, 4]
    lines[1] = lines[1].replace("train", "trian")
    with pytest.raises(DataError, match="line 2: the split must be one of train, val, test, got 'trian'"):
        table(tmp_path / "a", lines, split_column="part").files("train")


def test_keep_filters_rows(tmp_path: Path) -> None:
    data = CaptionFolder(root=str(caption_folder(tmp_path)), keep={"style": "fine"})
    assert {int(file.path.stem.removeprefix("picture")) % 2 for file in data.images} == {1}
    with pytest.raises(UsageError, match=r"data.keep .* matches none of the 20 rows .* style: plain, fine"):
        CaptionFolder(root=str(tmp_path), keep={"style": "coarse"}).files("train")
    with pytest.raises(
        UsageError, match="data.keep: .*captions.tsv has no column stile; it must be one of file, caption, also, style"
    ):
        CaptionFolder(root=str(tmp_path), keep={"stile": "fine"}).files("train")


def test_transparent_pixels_show_background(tmp_path: Path) -> None:
    tmp_path = tmp_path / "a"
    tmp_path.mkdir()
    glass = np.full((8, 8, 4), (200, 100, 0, 0), np.uint8)
    glass[:, 4:, 3] = 128
    Image.fromarray(glass).save(tmp_path / "glass.png")
    Image.fromarray(glass).quantize(4).save(tmp_path / "palette.png")
    Image.fromarray(glass[..., :3]).save(tmp_path / "opaque.png")
    lines = ["file\tcaption", "glass.png\ta", "opaque.png\tb"]
    half = torch.tensor([200.0, 100.0, 0.0]) * 128 / 255
    for background, value in (("black", 0), ("white", 255)):
        data = table(tmp_path, lines, background=background, val_fraction=0, test_fraction=0)
        images = {sample["caption"]: sample["image"].float() for sample in data.dataset("train")}
        assert (images["a"][:, :, 0] == value).all()
        assert (images["a"][:, 0, 7] - half - value * 127 / 255).abs().max() < 2
        assert images["b"][:, 0, 0].tolist() == [200, 100, 0]


def test_missing_parts_of_table_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with pytest.raises(DataError, match=r"data.root must be a folder with the images .*, got .*a"):
        CaptionFolder(root=str(folder)).setup("fit")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data.root must be a folder .*, got .*file"):
        CaptionFolder(root=str(tmp_path / "file"), table="captions.csv").setup("fit")
    with pytest.raises(DataError, match="has none of captions.tsv, captions.csv, captions.jsonl; add one"):
        CaptionFolder(root=str(tmp_path)).setup("fit")
    with pytest.raises(DataError, match="mine.csv does not exist; data.table must name a table in data.root"):
        CaptionFolder(root=str(tmp_path), table="mine.csv").setup("fit")
    with pytest.raises(UsageError, match=r"data.caption_columns must be a list, \[caption\], got 'caption'"):
        CaptionFolder(root=str(tmp_path), caption_columns="caption")
    lines = ["file\tcaption", "picture0.png\ta", *(f"gone{i}.png\tb" for i in range(7)), "\tc"]
    with pytest.raises(DataError, match=r"8 of 9 rows have no image \(line 3: gone0.png; .*gone4.png and 3 more\)"):
        table(folder, lines).setup("fit")
    with pytest.raises(DataError, match="captions.tsv, line 3: .*picture1.png has no caption"):
        table(folder, ["file\tcaption", "picture0.png\ta", "picture1.png\t "]).setup("fit")
    with pytest.raises(DataError, match="captions.tsv, line 2: damaged row .line 2 has 1 of 2 cells"):
        table(folder, ["file\tcaption", "picture0.png"]).setup("fit")
    with pytest.raises(DataError, match="captions.tsv is empty"):
        table(folder, ["file\tcaption"]).setup("fit")
    with pytest.raises(
        UsageError,
        match="data.caption_columns: .* has no column caption; it must be one of file, text .the first line of the table",
    ):
        table(folder, ["file\ttext", "picture0.png\ta"]).setup("fit")
    with pytest.raises(DataError, match=r"captions.txt: the table of captions must be one of .tsv, .csv, .jsonl"):
        table(folder, ["file\ttext"], "captions.txt").setup("fit")
    with pytest.raises(UsageError, match=r"data.val_fraction 0.1 leaves none of 1 images for val"):
        table(folder, ["file\tcaption", "picture0.png\ta"]).files("val")
