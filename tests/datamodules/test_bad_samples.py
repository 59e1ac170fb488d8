"""Unreadable samples: an error, or skipped without effect on the readable ones."""

import csv
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch.utils.data import Dataset

from darkroom.callbacks.training.bad_samples import BadSampleCount
from darkroom.datamodules.bad_samples import BadSample, BadSamples
from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.captions.shards.web_shards import ShardedCaptions
from darkroom.datamodules.detection.yolo_folder import YoloFolder
from darkroom.datamodules.images.image_folder import ImageFolder
from darkroom.datamodules.proposals.methods import Proposals
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from tests.contracts.ranks import command
from tests.fakes.boxes import yolo_folder
from tests.fakes.captions import web_shards
from tests.fakes.commands import Command
from tests.fakes.parts import TinyNetwork
from tests.fakes.pictures import image_mask_folder
from tests.fakes.ranks import on_two_ranks
from tests.faults.conftest import equal
from tests.runtime.test_resume import losses, state

BAD = (3, 4, 5, 11)


class Faulty(Dataset):
    """Images that encode their index; some cannot be read."""

    def __init__(self, length: int, bad: tuple[int, ...]) -> None:
        self.length, self.bad = length, bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.bad:
            raise DataError(f"file{index}.png cannot be read") if index % 2 else OSError(5, "I/O error", f"{index}.png")
        return {"image": torch.full((3, 4, 4), index, dtype=torch.uint8)}


class FaultyData(VisionDataModule):
    """Datamodule of sixteen faulty samples."""

    class_names = ("one",)
    image_shape = (3, 4, 4)

    def __init__(self, bad: tuple[int, ...] = BAD, **kwargs: Any) -> None:
        super().__init__(**{"batch_size": 4, "eval_batch_size": 3, "on_bad_sample": "skip"} | kwargs)
        self.bad = bad

    def dataset(self, split: str) -> Dataset:
        return Faulty(16, self.bad)


def seen(data: VisionDataModule, split: str = "train", epoch: int = 0) -> list[list[int]]:
    """Return the indices of the images of each batch."""
    data.setup({"train": "fit", "val": "validate"}.get(split, split))
    loader = data._loader(split)
    loader.sampler.set_epoch(epoch)
    return [batch["image"][:, 0, 0, 0].tolist() for batch in loader]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.fault("bad samples")
@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_bad_samples(workers: int) -> None:
    """Check that replacements depend on (seed, epoch, index) only, and other samples keep their place."""
    data = FaultyData(num_workers=workers)
    found, whole = ([seen(kind, epoch=epoch) for epoch in (0, 1, 0)] for kind in (data, FaultyData(bad=())))
    assert found[0] == found[2] == seen(FaultyData(num_workers=2 - workers))
    assert found[0] != found[1]
    for batch, good in zip(chain(*found), chain(*whole), strict=True):
        assert len(batch) == 4
        assert not set(batch) & set(BAD)
        assert all(here == there for here, there in zip(batch, good, strict=True) if there not in BAD)
    assert data.bad_samples.count("train") == len(BAD)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_omits_bad_samples(workers: int) -> None:
    data = FaultyData(num_workers=workers)
    assert seen(data, "val") == [[0, 1, 2], [6, 7, 8], [9, 10], [12, 13, 14], [15]]  # 3, 4, 5 were a batch
    assert data.bad_samples.count("val") == len(BAD)
    assert data.bad_samples.count("train") == 0
    loader = data._loader("val")
    for number, batch in enumerate(loader):
        assert loader.samples_of(number) == batch["image"][:, 0, 0, 0].tolist()


@pytest.mark.fault("bad samples beyond the budget")
def test_bad_samples_beyond_budget_raise(tmp_path: Path) -> None:
    data = FaultyData(bad_sample_budget=3)
    data.bad_samples.path = tmp_path / "bad_samples.tsv"
    with pytest.raises(
        DataError, match=r"more than 3 samples of the train split cannot be read.*bad_samples.tsv.*raise"
    ):
        seen(data)
    assert len(rows(data.bad_samples.path)) == 4
    with pytest.raises(DataError, match="100 samples chosen in turn cannot be read, the first: "):
        seen(FaultyData(bad=tuple(range(16))))
    with pytest.raises(DataError, match="none of the samples can be read"):
        seen(FaultyData(bad=tuple(range(16))), "val")
    with pytest.raises(UsageError, match="data.bad_sample_budget must be at least 0, got -1"):
        FaultyData(bad_sample_budget=-1)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_sample_raises_without_skipping(workers: int) -> None:
    with pytest.raises(DataError, match=r"file(3|5|11).png cannot be read"):
        seen(FaultyData(bad=(3, 5, 11), on_bad_sample="error", num_workers=workers))


@pytest.mark.fault("ranks that list bad samples at once")
def test_ranks_share_list_of_bad_samples(tmp_path: Path) -> None:
    """Check that lines are whole, samples are unique and the budget is shared."""

    def note(rank: int, folder: Path) -> int:
        found = BadSamples(budget=300)
        found.path = folder / "bad_samples.tsv"
        for number in range(200):
            found.note("train", [BadSample(f"{number}.png", "is damaged " * 50)] * (1 + rank))
            found.note("train", [BadSample(f"{rank}/{number % 25}.png", "is\tdamaged\ntoo")])
        torch.distributed.barrier()
        return found.count("train")

    assert on_two_ranks(note, tmp_path) == [250, 250]
    listed = rows(tmp_path / "bad_samples.tsv")
    assert len({row["sample"] for row in listed}) == len(listed) == 250
    assert {row["reason"] for row in listed} == {"is damaged too", ("is damaged " * 50).strip()}


def test_partial_line_of_killed_process_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.tsv"
    path.write_text("split\tsample\treason\ntrain\ta.png\tis damaged\ntrain\tb.p")
    found = BadSamples(budget=9)
    found.path = path
    found.note("train", [BadSample("a.png", "is damaged"), BadSample("b.png", "is damaged")])
    assert found.count("train") == 2
    assert path.read_text().splitlines()[3:] == ["train\tb.png\tis damaged"]


# --- on the command line ----------------------------------------------------------------------------------------------


def damaged_folder(root: Path) -> dict[str, str]:
    """Write 20 training and 4 validation images, some damaged; return the reason by file."""
    for folder, count in (("", 20), ("val", 4)):
        image_mask_folder(root / folder, count=count)
    whole = (root / "images/photo03.png").read_bytes()
    (root / "images/photo03.png").write_bytes(whole[: len(whole) // 2])
    (root / "images/photo07.png").write_bytes(b"<html>not found</html>")
    Image.new("L", (9, 9)).save(root / "masks/photo11.png")
    Image.new("L", (48, 40), 7).save(root / "masks/photo13.png")
    (root / "val/images/photo01.png").write_bytes(b"")
    return {
        "images/photo03.png": "cannot be read as an image",
        "images/photo07.png": "cannot be read as an image",
        "images/photo11.png": "they must have the same size",
        "images/photo13.png": "has the value 7, but there are 2 classes",
        "val/images/photo01.png": "cannot be read as an image",
    }


COMMAND = [
    *("--model", "SemanticSegmentation", "--model.network", "tests.fakes.parts.TinyNetwork"),
    *(
        "--model.network.num_classes",
        "2",
        "--data",
        "ImageMaskFolder",
        "--data.root",
        "data",
        "--data.test_fraction",
        "0",
    ),
    *("--data.val_images_dir", "val/images", "--data.val_masks_dir", "val/masks"),
    *("--data.batch_size", "4", "--data.crop", "16", "--data.num_workers", "0", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
]
FIT = ["fit", *COMMAND, "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1"]
SKIP = ["--data.on_bad_sample", "skip"]


@pytest.mark.fault("bad samples, killed and continued")
@pytest.mark.slow
def test_resumed_run_skips_same_samples(darkroom: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = damaged_folder(tmp_path / "data")
    assert darkroom(*FIT, *SKIP, "--experiment", "whole").code == 0
    console = "\n".join(caplog.messages)
    steps = ["--last_checkpoint.every_n_epochs", "null", "--last_checkpoint.every_n_train_steps", "3"]
    killer = ["--trainer.callbacks+=tests.fakes.parts.KillAt", "--trainer.callbacks.step=8"]
    assert Command(*FIT, *SKIP, *steps, *killer, "--experiment", "killed").wait() == -9
    assert len(rows(Path("runs/killed/0/bad_samples.tsv"))) >= 4
    assert darkroom(*FIT, *SKIP, *steps, "--experiment", "killed", "--ckpt_path", "last").code == 0
    for key in ("state_dict", "optimizer_states"):
        assert equal(state("runs/whole/0")[key], state("runs/killed/0")[key]), key
    assert losses("runs/whole/0") == losses("runs/killed/0")
    for run in ("whole", "killed"):
        listed = {row["sample"]: row for row in rows(Path(f"runs/{run}/0/bad_samples.tsv"))}
        assert sorted(listed) == sorted(f"data/{name}" for name in expected)
        assert len(rows(Path(f"runs/{run}/0/bad_samples.tsv"))) == len(expected)
        for name, reason in expected.items():
            assert reason in listed[f"data/{name}"]["reason"]
            assert listed[f"data/{name}"]["split"] == ("val" if "val" in name else "train")
    assert console.count("bad sample (train): ") == 4  # reported once, although every epoch reads them
    assert console.count("bad sample (val): ") == 1
    assert "bad samples (train): 4; listed in runs/whole/0/bad_samples.tsv" in console


@pytest.mark.fault("a bad sample in a worker process")
def test_error_of_worker_process_is_reported(darkroom: Callable, tmp_path: Path) -> None:
    damaged_folder(tmp_path / "data")
    (tmp_path / "data/val/images/photo01.png").unlink()
    (tmp_path / "data/val/masks/photo01.png").unlink()
    outcome = darkroom(*FIT, "--data.num_workers", "1")
    assert outcome.code == 1
    assert outcome.message.count("\n") == 1
    assert "data/" in outcome.message
    many = darkroom(*FIT, *SKIP, "--data.num_workers", "1", "--data.bad_sample_budget", "2", "--experiment", "many")
    assert many.code == 1
    assert "more than 2 samples of the train split cannot be read" in many.message
    assert "runs/many/0/bad_samples.tsv" in many.message


def test_predictions_and_metrics_omit_bad_samples(darkroom: Callable, tmp_path: Path) -> None:
    damaged_folder(tmp_path / "data")
    assert darkroom(*FIT, *SKIP, "--experiment", "it").code == 0
    photos = ["--data.predict", "data/images", "--trainer.callbacks+=PredictionWriter", "--ckpt_path", "last"]
    assert darkroom("predict", *COMMAND, *SKIP, "--experiment", "it", *photos).code == 0
    assert (
        len(list(Path("runs/it/0/predictions").glob("overlays/*.png"))) == 18
    )  # masks are not read: two images are damaged
    assert sum(row["split"] == "predict" for row in rows(Path("runs/it/0/bad_samples.tsv"))) == 2


@pytest.mark.fault("bad samples on two ranks, one of which has less to validate on")
def test_two_ranks_skip_consistently(tmp_path: Path) -> None:
    """Check that ranks take the same number of steps and evaluate each readable image once."""
    damaged_folder(tmp_path / "data")
    at = COMMAND.index("--data")
    fit = ["fit", "--model", "UNet", "--model.base_channels", "4", *COMMAND[at:], *SKIP, "--trainer.max_epochs", "1"]
    fit += ["--data.test_images_dir", "val/images", "--data.test_masks_dir", "val/masks", "--experiment", "it"]
    fit += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.num_sanity_val_steps", "0"]
    one, two = on_two_ranks(lambda rank, folder: command(rank, fit), tmp_path)
    assert one["step"] == two["step"] == 2  # of four images on each rank
    assert all(torch.equal(value, two["last"][name]) for name, value in one["last"].items())
    assert [len(rank["seen"]["val"]) for rank in (one, two)] == [2, 1]
    assert one["metrics"]["fit"]["val/mIoU"] == two["metrics"]["fit"]["val/mIoU"]
    listed = [(row["split"], row["sample"]) for row in rows(Path("runs/it/0/bad_samples.tsv"))]
    assert len(set(listed)) == len(listed)
    assert sum(split == "val" for split, _ in listed) == 1


def test_number_of_bad_samples_is_logged(tmp_path: Path) -> None:
    damaged_folder(tmp_path)
    data = ImageMaskFolder(
        *("images", "masks"),
        **{"root": str(tmp_path), "val_images_dir": "val/images", "val_masks_dir": "val/masks", "test_fraction": 0.0},
        **{"crop": 16, "batch_size": 4, "num_workers": 0, "on_bad_sample": "skip"},
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[BadSampleCount()], default_root_dir=tmp_path / "run", **quiet
    )
    trainer.fit(SemanticSegmentation(TinyNetwork(2), 2), data)
    assert (trainer.callback_metrics["train/bad_samples"], trainer.callback_metrics["val/bad_samples"]) == (4, 1)
    assert len(rows(tmp_path / "run/bad_samples.tsv")) == 5


# --- shards -----------------------------------------------------------------------------------------------------------


def test_readable_part_of_damaged_shard_is_used(tmp_path: Path) -> None:
    """Check a member with invalid image data and a truncated shard."""
    root = web_shards(tmp_path)
    good = ShardedCaptions(root=str(root), size=16, streams=2, buffer=12, batch_size=4, num_workers=0)
    good.setup("fit")
    names = [sample["path"] for sample in good.dataset("train")]
    (root / "shards.json").write_text('{"train-000000.tar": 7, "train-000001.tar": 9, "train-000002.tar": 8}')
    content = (root / "train-000001.tar").read_bytes()
    start = next(at for at, after in pairwise(range(0, len(content), 512)) if content[at + 1 : at + 4] == b"PNG")
    (root / "train-000001.tar").write_bytes(content[:start] + bytes(512) + content[start + 512 :])
    last = (root / "train-000002.tar").read_bytes()
    (root / "train-000002.tar").write_bytes(last[: last.index(b"PNG", len(last) // 2) + 100])
    found = {}
    for workers in (0, 2):
        data = ShardedCaptions(
            **{"root": str(root), "size": 16, "streams": 2, "buffer": 12, "batch_size": 4},
            **{"num_workers": workers, "on_bad_sample": "skip"},
        )
        data.bad_samples.path = tmp_path / f"{workers}.tsv"
        data.setup("fit")
        found[workers] = [batch["path"] for batch in data.train_dataloader()]
    assert found[0] == found[2]
    assert {len(batch) for batch in found[0]} == {4}
    listed = rows(tmp_path / "0.tsv")
    assert sum("cannot be read as an image" in row["reason"] for row in listed) == 1
    broken = [row for row in listed if "cannot be read as a shard" in row["reason"]]
    assert broken
    assert all("train-000002.tar, sample " in row["sample"] for row in broken)
    assert {name for name in names if "train-000000" in name} <= {name for batch in found[0] for name in batch}


# --- labels, proposals, judges ----------------------------------------------------------------------------------------


class WholeImage(Proposals):
    """Propose the whole image."""

    def __init__(self) -> None:
        super().__init__(min_side=0, limit=None)

    def candidates(self, image: np.ndarray) -> np.ndarray:
        return np.array([[0, 0, image.shape[1], image.shape[0]]])


def yolo(tmp_path: Path, **kwargs: Any) -> YoloFolder:
    data = YoloFolder(root=str(yolo_folder(tmp_path, count=8)), **{"batch_size": 2, "num_workers": 0} | kwargs)
    images = sorted((tmp_path / "images/train").iterdir())
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:-200])
    (tmp_path / "labels/train" / f"{images[2].stem}.txt").write_text("0 much too wrong\n")
    return data


def test_labels_and_proposals_skip_bad_samples(tmp_path: Path) -> None:
    """Check label files and images of proposals, which are read during setup."""
    proposals = {"proposals": WholeImage(), "proposals_dir": str(tmp_path / "cache"), "proposal_workers": 0}
    with pytest.raises(DataError):
        yolo(tmp_path / "error", **proposals).setup("fit")
    data = yolo(tmp_path / "skip", on_bad_sample="skip", **proposals)
    data.bad_samples.path = tmp_path / "bad_samples.tsv"
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert {len(batch["image"]) for batch in batches} == {2}
    assert all(len(batch["proposals"]) == 2 for batch in batches)
    assert len(rows(data.bad_samples.path)) == 3


def test_judge_trains_on_readable_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8), (index * 60, 0, 0)).save(tmp_path / "train" / name / f"{index}.png")
    (tmp_path / "train/a/2.png").write_bytes(b"")
    data = ImageFolder(
        root=str(tmp_path), val_fraction=0.0, test_fraction=0.0, size=8, num_workers=0, on_bad_sample="skip"
    )
    readable = data.open_dataset("train")
    samples = list(readable)
    assert len(samples) == len(readable.labels) == 8
    assert data.bad_samples.count("train") == 1
    with pytest.raises(DataError, match="2.png cannot be read as an image"):
        list(data.dataset("train"))
