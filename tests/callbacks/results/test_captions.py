"""Results of a test of text-to-image models: asked and judged attributes of each caption."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image

from darkroom.callbacks.results.base import Sample, Subject
from darkroom.callbacks.results.captions import CaptionRecorder
from darkroom.datamodules.shapes.captions import ShapesCaptions
from darkroom.lightning_modules.diffusion.metrics import CaptionScores
from darkroom.lightning_modules.metrics import attribute_judge
from darkroom.lightning_modules.metrics.scores import generator_of
from darkroom.protocols import JudgedSamples
from darkroom.report.write import write_report
from darkroom.runtime.records.results import create_folder, read_results
from darkroom.runtime.records.tables import numbers, read_table
from tests.conftest import CONFIGS
from tests.contracts.ranks import plain_command
from tests.fakes.ranks import on_two_ranks
from tests.report.pages import Page


class Painter(LightningModule):
    """Module with metrics that judge its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: CaptionScores | None = CaptionScores()


DATA = ShapesCaptions(side=16, forms=["object", "relation"], test_size=40)
COLOUR = DATA.attribute_names.index("colour")


def judged_part(numbers: range) -> JudgedSamples:
    """Return judged samples of a data set; every third colour is wrong."""
    described = DATA.dataset("test").describe(numbers)
    stated = torch.from_numpy(described.stated)
    judged = stated.clamp(min=0)
    wrong = torch.tensor([number % 3 == 0 for number in numbers])
    judged[wrong, COLOUR] = (judged[wrong, COLOUR] + 1) % 6
    return JudgedSamples(
        numbers=list(numbers),
        seeds=[generator_of(0, number).initial_seed() for number in numbers],
        captions=described.captions,
        images=torch.stack([torch.full((3, 4, 4), number, dtype=torch.uint8) for number in numbers]),
        stated=stated,
        judged=judged,
        held_out=torch.from_numpy(described.held_out),
        form=torch.from_numpy(described.form),
    )


def record_part(rank: int, ranks: int, folder: Path) -> bool:
    """Record every ``ranks``-th of 40 samples through the metrics, and write the results of all ranks."""
    module = Painter()
    recorder = CaptionRecorder(Subject(module, [], DATA, worst=3, examples=1))
    recorder.start()
    for start in range(rank, 48, 2 * ranks):
        part = range(start, min(48, start + 2 * ranks), ranks)
        recorder.add([Sample(number, f"{number}.png") for number in part], None, {})
    assert module.scores is not None
    assert module.scores.on_judged is not None
    for start in range(rank, 40, 5 * ranks):
        module.scores.on_judged(judged_part(range(start, min(40, start + 5 * ranks), ranks)))
    recorder.stop()
    assert module.scores.on_judged is None
    recorder.gather(cast(Trainer, SimpleNamespace(world_size=ranks)))
    if rank == 0:
        test = create_folder(folder)
        recorder.write(test)
        (test / "notes.json").write_text(json.dumps(recorder.notes))
    return True


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the results of one process."""
    folder = tmp_path_factory.mktemp("alone")
    record_part(0, 1, folder)
    return folder / "test"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rows_have_what_was_asked_and_judged(recorded: Path) -> None:
    table = read_table(recorded / "samples.csv")
    described = DATA.dataset("test").describe(range(40))
    assert table["sample"] == [str(number) for number in range(40)]
    assert table["name"][7] == "7.png"
    assert table["caption"] == described.captions
    assert set(table["form"]) == {"object", "relation"}
    assert [cell == "1" for cell in table["held_out"]] == described.held_out.tolist()
    assert [bool(cell) for cell in table["held_out_objects"]] == described.held_out.tolist()
    assert table["right"] == ["0" if number % 3 == 0 else "1" for number in range(40)]
    assert table["seed"][5] == str(generator_of(0, 5).initial_seed())
    for row, caption in enumerate(described.captions):
        assert table["asked/colour"][row] in caption
        assert table["asked/kind"][row] in caption
        assert (table["judged/colour"][row] == table["asked/colour"][row]) == (row % 3 != 0)
        assert table["right/colour"][row] == table["right"][row]
        assert (table["asked/axis"][row] == "") == (table["form"][row] == "object")
        assert (table["right/size"][row] == "") == (table["asked/size"][row] == "")
        for name in filter(None, table["held_out_objects"][row].split("; ")):
            assert name in caption
    assert "asked/column" not in table  # no caption states a place


def test_images_are_generated_ones_of_wrong_and_right_samples(recorded: Path) -> None:
    kept = sorted(int(path.stem) for path in (recorded / "images").iterdir())
    assert {0, 3, 6} <= set(kept)  # the worst ones, all with one wrong attribute
    assert any(number % 3 for number in kept)
    assert len(kept) <= 3 + 1 + 2 + 2 + 6
    assert set(np.array(Image.open(recorded / "images/000003.png")).flat) == {3}


def test_number_of_judged_captions_is_noted(recorded: Path) -> None:
    assert json.loads((recorded / "notes.json").read_text()) == [
        "The first 40 of 48 test captions are judged; model.scores.num_samples sets their number."
    ]


def test_ranks_write_the_results_of_one_process(recorded: Path, tmp_path: Path) -> None:
    on_two_ranks(lambda rank, folder: record_part(rank, 2, folder / "together"), tmp_path)
    assert contents(tmp_path / "together/test") == contents(recorded)


@pytest.mark.parametrize("scores", [None, CaptionScores(accuracy=False, fid=True, features="inception")])
def test_samples_without_judge_have_no_results(scores: CaptionScores | None) -> None:
    module = Painter()
    module.scores = scores
    assert not CaptionRecorder.records(module)


TINY = {
    "model.network.base_channels": 4,
    "model.network.head_channels": 4,
    "model.network.text_dim": 8,
    "model.text.dim": 8,
    "model.sampling.steps": 2,
    "model.scores.batch_size": 2,
    "data.forms": "[object, relation]",
    "data.test_size": 9,
    "data.num_workers": 0,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "seed_everything": 0,
}


@pytest.mark.slow
def test_command_records_captions_on_one_and_two_ranks(
    darkroom: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test an untrained model with a judge of two steps, and show its results on a page."""
    monkeypatch.setattr(attribute_judge, "_SEEN", 200)
    monkeypatch.setattr(attribute_judge, "_HELD_OUT", 100)
    plain = tmp_path / "plain.yaml"
    plain.write_text("trainer: {callbacks: null}")
    given: list[Any] = ["test", "--config", CONFIGS / "diffusion/imagen.yaml", "--config", plain]
    given += [part for key, value in TINY.items() for part in (f"--{key}", value)]
    given += ["--model.scores.cache_dir", tmp_path / "judges", "--experiment", "it"]
    torch.set_num_threads(1)  # as on the ranks
    outcome = darkroom(*given)
    assert outcome.code == 0, outcome.err
    two = [*given, "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    on_two_ranks(lambda rank, _: plain_command(rank, two), tmp_path)
    alone, together = (read_results(Path(f"runs/it/{number}")) for number in (0, 1))
    assert alone is not None
    assert together is not None
    table = alone.tables["samples"]
    assert table["sample"] == [str(number) for number in range(9)]
    assert together.tables["samples"]["sample"] == table["sample"]
    assert together.tables["samples"]["seed"] == table["seed"]
    assert together.tables["samples"]["asked/kind"] == table["asked/kind"]
    held_out, right = numbers(table["held_out"]) > 0, numbers(table["right"])
    metrics = alone.summary.metrics
    for name, mask in (("test/prompt_accuracy", ~held_out), ("test/prompt_accuracy_held_out", held_out)):
        if mask.any():
            assert right[mask].mean() == pytest.approx(metrics[name])
    kinds = numbers(table["right/kind"])
    assert kinds.mean() == pytest.approx(metrics["test/prompt_kind"])
    page = Page(write_report(Path("runs/it/0")))
    assert page.column("attributes", "accuracy")["kind"] == f"{kinds.mean():.4g}"
    assert page.broken_links() == []
    assert sum(source.startswith("data:image/png") for source in page.images) >= (right == 0).sum() > 0
