"""All tests of a run: their record, their table, and distances by sampling steps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from darkroom.report.past_tests import distance_by_steps
from darkroom.report.run import read_run
from darkroom.runtime.records.past_tests import FILE, append_test, read_tests

pytestmark = pytest.mark.usefixtures("quick_plots")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a diffusion model that was tested with two samplers."""
    folder = tmp_path / "runs/ddpm/0"
    folder.mkdir(parents=True)
    config = {
        "model": {"class_path": "DDPM", "init_args": {"sampling": {"sampler": "ancestral", "steps": 100}, "width": 8}},
        "data": {"class_path": "ShapesImages", "init_args": {"test_size": 16}},
        "checkpoint": {"monitor": "val/loss", "mode": "min"},
        "trainer": {"max_epochs": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.csv").write_text("step,epoch,val/loss\n8,0,0.5\n")
    for sampler, steps, distance in (
        ("ancestral", 100, 9.0),
        ("ddim", 20, 14.0),
        ("ddim", 10, 20.0),
        ("ddim", 20, 13.0),
    ):
        config["model"]["init_args"]["sampling"] = {"sampler": sampler, "steps": steps}
        config["trainer"] = {"max_epochs": 7}
        (folder / "test.yaml").write_text(yaml.safe_dump(config))
        append_test(folder, "best.ckpt", {"test/loss": 0.5, "test/cnn_fid": distance})
    return folder


def test_record_has_options_of_model_and_data_that_differ(run: Path) -> None:
    tests = read_tests(run)
    assert [test.options for test in tests] == [
        {},
        {"model.sampling.sampler": "ddim", "model.sampling.steps": 20},
        {"model.sampling.sampler": "ddim", "model.sampling.steps": 10},
        {"model.sampling.sampler": "ddim", "model.sampling.steps": 20},
    ]
    assert tests[1].metrics == {"test/loss": 0.5, "test/cnn_fid": 14.0}


def test_distances_are_sorted_by_steps_and_newest_counts(run: Path) -> None:
    series = distance_by_steps(read_run(run), read_tests(run))
    assert {sampler: points.tolist() for sampler, points in series.items()} == {
        "ancestral": [[100, 9]],
        "ddim": [[10, 20], [20, 13]],
    }


def test_report_has_table_and_curve_of_tests(darkroom: Callable, run: Path) -> None:
    assert darkroom("report", run).code == 0
    page = (run / "report/index.html").read_text()
    assert "model.sampling.steps" in page
    assert "Distance of samples to test images by steps" in page
    table = (run / "report/tables/tests.csv").read_text().splitlines()
    assert table[0] == "time,model.sampling.sampler,model.sampling.steps,loss,cnn_fid"
    assert table[1].endswith("ancestral,100,0.5,9.0")
    assert (run / "report/figures/distance-by-steps.pdf").is_file()


def test_line_that_is_cut_off_is_left_out(run: Path) -> None:
    with (run / FILE).open("a") as file:
        file.write('{"tested": "2026')
    assert len(read_tests(run)) == 4


def test_command_adds_every_test(darkroom: Callable, tiny_run: Path) -> None:
    checkpoint = tiny_run / "checkpoints/best.ckpt"
    for extra in ((), ("--model.inference.flip", "true")):
        done = darkroom("test", "--ckpt_path", checkpoint, *extra)
        assert done.code == 0, done.err
    plain, flipped = read_tests(tiny_run)[-2:]
    assert plain.options == {}
    assert flipped.options["model.inference.flip"] is True
    assert plain.checkpoint == str(checkpoint)
    assert "test/mIoU" in plain.metrics
    assert plain.samples == 4
