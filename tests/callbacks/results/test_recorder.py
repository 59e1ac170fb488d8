"""Recording of test results: on several ranks, switched off, by other modules, and after a failure."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from darkroom.callbacks.results.base import Sample, Subject
from darkroom.callbacks.results.recorder import ResultRecorder
from darkroom.callbacks.results.segmentation import SegmentationRecorder
from darkroom.cli.options.trainer_defaults import add_defaults
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules.classification import ImageClassifier
from darkroom.runtime.records.results import create_folder, read_results
from tests.callbacks.results.test_classification import Identity, classifier
from tests.conftest import CONFIGS
from tests.contracts.module import trainer
from tests.contracts.ranks import plain_command
from tests.fakes.ranks import on_two_ranks

BEST = ("--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


def shapes(**kwargs: Any) -> ShapesImages:
    return ShapesImages(**{"label": "colour", "train_size": 4, "test_size": 7, "side": 32, "num_workers": 0, **kwargs})


def contents(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files.pop("summary.json", None)
    return files


def record_part(rank: int, ranks: int, folder: Path) -> bool:
    """Record every ``ranks``-th of seven images, write the results of all ranks, and return True."""
    pixels = torch.Generator().manual_seed(0)
    masks, predictions = torch.randint(3, (2, 7, 6, 6), generator=pixels)
    images = torch.rand(7, 3, 6, 6, generator=pixels)
    recorder = SegmentationRecorder(Subject(LightningModule(), ["a", "b", "c"], Identity(), worst=2, examples=1))
    for number in range(rank, 7, ranks):
        part = slice(number, number + 1)
        outputs, batch = {"prediction": predictions[part]}, {"mask": masks[part], "image": images[part]}
        recorder.add([Sample(number, f"{number}.png")], outputs, batch)
    recorder.gather(cast(Trainer, SimpleNamespace(world_size=ranks)))
    if rank == 0:
        recorder.write(create_folder(folder))
    return True


def test_ranks_write_the_results_of_one_process(tmp_path: Path) -> None:
    record_part(0, 1, tmp_path / "alone")
    on_two_ranks(lambda rank, folder: record_part(rank, 2, folder / "together"), tmp_path)
    files = contents(tmp_path / "together/test")
    assert files == contents(tmp_path / "alone/test")
    assert {"samples.csv", "objects.csv", "confusion.csv"} < files.keys()


@pytest.mark.parametrize(
    ("classes", "examples", "expected"),
    [(22, 4, []), (40, 4, ["pairs of classes"]), (300, 4, ["pairs of classes", "too many classes"]), (300, 0, [])],
)
def test_images_that_are_left_out_for_many_classes_are_noted(classes: int, examples: int, expected: list[str]) -> None:
    subject = Subject(
        LightningModule(), [str(label) for label in range(classes)], Identity(), worst=2, examples=examples
    )
    notes = SegmentationRecorder(subject).notes
    assert len(notes) == len(expected)
    assert all(text in note for text, note in zip(expected, notes, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segmentation/unet.yaml", "classification/vgg.yaml", "detection/yolo.yaml"])
def test_commands_on_two_ranks_write_the_files_of_one_process(darkroom: Callable, tmp_path: Path, name: str) -> None:
    """Check sizes that neither batches nor ranks divide."""
    sizes = ("--data.test_size", 7, "--data.eval_batch_size", 1, "--data.num_workers", 0, "--data.side", 64)
    test = ["test", "--config", CONFIGS / name, "--experiment", "it", *QUIET, *sizes, "--trainer.accelerator", "cpu"]
    torch.set_num_threads(1)  # as on the ranks
    assert darkroom(*test).code == 0
    ranks = [*test, "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    _, two = on_two_ranks(lambda rank, _: plain_command(rank, ranks), tmp_path)
    assert two == []  # rank 0 alone writes
    alone, together = (Path(f"runs/it/{number}/test") for number in (0, 1))
    assert contents(together) == contents(alone)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (alone, together)]
    assert summaries[0]["num_samples"] == summaries[1]["num_samples"] == 7
    assert summaries[0]["notes"] == summaries[1]["notes"]


@pytest.mark.usefixtures("tiny_run")
def test_command_records_and_names_the_folder(darkroom: Callable) -> None:
    run = Path("runs/tiny/0")
    assert read_results(run) is None  # a fit and its validations write none
    outcome = darkroom("test", *BEST)
    assert "test results: runs/tiny/0/test" in outcome.out
    results = read_results(run)
    assert results is not None
    assert results.summary.checkpoint == BEST[1]
    assert results.summary.step == 2
    assert results.summary.metrics["test/mIoU"] >= 0
    (run / "test/images/stale.png").touch()
    assert darkroom("test", *BEST, "--results", "false").code == 0
    assert (run / "test/images/stale.png").exists()


def test_recorder_of_the_config_replaces_the_default() -> None:
    config: dict[str, Any] = {"enable_checkpointing": True, "enable_progress_bar": False, "default_root_dir": None}
    config |= {"callbacks": [ResultRecorder(worst=3)], "logger": None, "plugins": None}
    for given, expected in ((config, 0), ({**config, "callbacks": None}, 1)):
        made = add_defaults(dict(given), [], Path("runs/it/0"), resumed=False, records=True)
        assert sum(isinstance(callback, ResultRecorder) for callback in made) == expected


def test_trial_batch_writes_no_results(tmp_path: Path) -> None:
    trainer(tmp_path, callbacks=[ResultRecorder()], fast_dev_run=True).test(classifier(32, 8), shapes(), verbose=False)
    assert read_results(tmp_path) is None


class Other(LightningModule):
    """Module of a user."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight


class OtherOutputs(ImageClassifier):
    """Classifier whose step returns something else."""

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return super().test_step(batch, batch_idx)["losses"]


def test_module_without_task_has_no_results(tmp_path: Path) -> None:
    trainer(tmp_path, callbacks=[ResultRecorder()]).test(Other(), shapes(), verbose=False)
    assert read_results(tmp_path) is None


def test_step_with_other_outputs_has_no_results_and_one_warning(tmp_path: Path) -> None:
    model = OtherOutputs(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32**2, 8)), num_classes=8)
    with pytest.warns(
        UserWarning, match="test_step of OtherOutputs does not return what its task classification needs"
    ):
        trainer(tmp_path, callbacks=[ResultRecorder()]).test(model, shapes(), verbose=False)
    assert read_results(tmp_path) is None


def test_interrupted_test_leaves_incomplete_folder(tmp_path: Path) -> None:
    model, testing = classifier(32, 8), trainer(tmp_path, callbacks=[ResultRecorder()])
    testing.test(model, shapes(), verbose=False)
    evaluate = model.test_step

    def fail(batch: Any, batch_idx: int) -> Any:
        if batch_idx:
            raise KeyError("a fault")
        return evaluate(batch, batch_idx)

    vars(model)["test_step"] = fail
    with pytest.raises(KeyError, match="a fault"):
        testing.test(model, shapes(eval_batch_size=2), verbose=False)
    with pytest.raises(DataError, match=r"has no summary.json, because the test did not end; run darkroom test again"):
        read_results(tmp_path)


@pytest.mark.usefixtures("tiny_run")
def test_full_disk_is_reported(darkroom: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("darkroom.callbacks.results.base.write_table", full)
    outcome = darkroom("test", *BEST)
    assert outcome.code == 1
    assert "no space left on the disk for runs/tiny/0" in outcome.message
    with pytest.raises(DataError, match="run darkroom test again"):
        read_results(Path("runs/tiny/0"))


def test_negative_number_of_images_raises() -> None:
    with pytest.raises(UsageError, match="ResultRecorder.examples must be at least 0, got -1"):
        ResultRecorder(examples=-1)
