"""``darkroom report``: pages of every task, values, links, and runs that are incomplete or damaged."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.report.table import format_value
from darkroom.report.tasks.classification import calibrate, count_confusions
from darkroom.report.write import write_report
from tests.fakes.runs import CLASSES, write_run
from tests.report.pages import Page

TASKS = tuple(CLASSES)
pytestmark = pytest.mark.usefixtures("quick_plots")


@pytest.fixture(scope="module", params=TASKS)
def reported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a run of each task."""
    run = write_run(tmp_path_factory.mktemp("runs") / request.param / "0", request.param)
    figure = run / "figures/val_masks/0000030.png"
    figure.parent.mkdir(parents=True)
    Image.new("RGB", (64, 32)).save(figure)
    return Page(write_report(run))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs/vgg/0", "classification")


def report(run: Path) -> Page:
    return Page(write_report(run))


def test_page_is_complete_and_alone(reported: Page) -> None:
    assert "Nothing is missing." in reported.text or "512 pixels" in reported.text
    assert reported.broken_links() == []
    assert reported.requests() == []
    assert len(reported.ids) == len(set(reported.ids))
    assert all(source.startswith("data:image/") for source in reported.images)
    assert len(reported.images) > 5
    assert "Val masks" in reported.text or "Masks" in reported.text


def test_every_number_leads_to_images_that_are_there(reported: Page) -> None:
    assert all(key in reported.keys for _, key in reported.leads)
    assert {gallery for gallery, _ in reported.leads} <= {"#images", "#crop-images"}


def test_figures_and_tables_are_files_beside_the_page(reported: Page) -> None:
    folder = reported.path.parent
    figures = [path.name for path in (folder / "figures").iterdir()]
    assert {Path(name).stem for name in figures} >= {"curve-loss", "curve-lr", "curve-images_per_second"}
    assert all(f"figures/{name}" in reported.links for name in figures)
    tables = sorted((folder / "tables").glob("*.csv"))
    assert {path.stem for path in tables} <= set(reported.tables)
    for path in tables:
        assert r"\toprule" in path.with_suffix(".tex").read_text()
        assert len({len(row) for row in csv.reader(path.open())}) == 1


def test_values_are_those_of_metrics_csv(reported: Page) -> None:
    with (reported.path.parents[1] / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    tested = {name.removeprefix("test/"): float(value) for name, value in last.items() if name.startswith("test/")}
    shown = reported.column("metrics", "test")
    assert tested
    assert {name: shown[name] for name in tested} == {name: format_value(value) for name, value in tested.items()}
    main = next(name for name in tested if name != "loss") if len(tested) > 1 else "loss"
    assert format_value(tested[main]) in reported.text.split("in the test")[0]


def test_report_again_replaces_the_first_one(run: Path) -> None:
    write_report(run)
    (run / "report/figures/old.png").write_bytes(b"")
    report(run)
    assert not (run / "report/figures/old.png").exists()


def test_environment_and_config_are_shown(run: Path) -> None:
    page = report(run)
    for text in ("darkroom fit --config configs/fake.yaml", "0123456789", "12 min 34 s", "123,456", "torch 2.11.0"):
        assert text in page.text
    values = page.column("options", "value")
    assert values["trainer.max_epochs"] == "3"
    assert values["data.batch_size"] == "8"
    assert "trainer.precision" in values  # 32-true, default null


# --- classification ---------------------------------------------------------------------------------------------------


def test_expected_calibration_error_of_four_predictions() -> None:
    # Bins of a half: two predictions with confidence .4 of which one is right, two with .9 and .7 which are right.
    result = calibrate(np.array([0.4, 0.4, 0.9, 0.7]), np.array([True, False, True, True]), bins=2)
    assert result.counts.tolist() == [2, 2]
    assert result.expected_error == pytest.approx(0.5 * abs(0.5 - 0.4) + 0.5 * abs(1 - 0.8))
    assert result.largest_error == pytest.approx(0.2)


def test_confidence_on_the_edge_of_a_bin_is_in_the_lower_one() -> None:
    assert calibrate(np.array([0.0, 0.5, 1.0]), np.ones(3, dtype=bool), bins=2).counts.tolist() == [2, 1]


def test_confusion_counts_true_classes_along_rows() -> None:
    counts = count_confusions(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_accuracy_of_classes_equals_samples(run: Path) -> None:
    page = report(run)
    with (run / "test/samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    for label, name in enumerate(CLASSES["classification"]):
        of_class = [row for row in rows if row["truth"] == str(label)]
        right = sum(row["predicted"] == row["truth"] for row in of_class)
        assert page.column("classes", "images")[name] == str(len(of_class))
        assert page.column("classes", "accuracy (recall)")[name] == format_value(right / len(of_class))


# --- segmentation -----------------------------------------------------------------------------------------------------


def test_iou_of_classes_follows_confusion(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/unet/0", "segmentation")
    (run / "test/confusion.csv").write_text("truth,0,1,2\n0,80,10,0\n1,10,20,0\n2,0,0,0\n")
    page = report(run)
    assert page.column("classes", "IoU") == {"background": "0.8", "circle": "0.5", "square": "–"}
    assert page.column("confusion", "circle") == {"background": "10", "circle": "20", "square": "0"}
    assert page.column("classes", "fraction of pixels")["circle"] == "0.25"


# --- captions ---------------------------------------------------------------------------------------------------------


def test_accuracy_of_captions_by_attribute_form_and_held_out_object(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/imagen/0", "captions")
    page = report(run)
    with (run / "test/samples.csv").open() as file:
        rows = list(csv.DictReader(file))

    def accuracy(rows: list[dict[str, str]], column: str = "right") -> str:
        return format_value(sum(float(row[column]) for row in rows) / len(rows))

    assert page.column("attributes", "accuracy") == {
        "all": accuracy(rows),
        "kind": accuracy(rows, "right/kind"),
        "colour": accuracy(rows, "right/colour"),
    }
    assert page.column("attributes", "wrong")["kind"] == str(sum(row["right/kind"] == "0" for row in rows))
    for form in ("single", "relation"):
        assert page.column("forms", "accuracy")[form] == accuracy([row for row in rows if row["form"] == form])
    groups = {
        "all, seen in training": [row for row in rows if row["held_out"] == "0"],
        "all, held out": [row for row in rows if row["held_out"] == "1"],
        "red disc": [row for row in rows if "red disc" in row["held_out_objects"]],
        "blue star": [row for row in rows if "blue star" in row["held_out_objects"]],
    }
    for column, cell in (("accuracy", "right"), ("colour", "right/colour")):
        assert page.column("held_out", column) == {name: accuracy(found, cell) for name, found in groups.items()}
    assert ("#images", "object-red-disc") in page.leads
    wrong = page.column("wrong_captions", "wrong attributes")
    assert set(wrong) == {row["caption"] for row in rows if row["right"] == "0"}
    one = next(row for row in rows if row["right/kind"] == "1" and row["right/colour"] == "0")
    assert wrong[one["caption"]] == "colour: blue instead of red"


# --- incomplete and damaged runs --------------------------------------------------------------------------------------


def remove_test(run: Path) -> None:
    import shutil

    shutil.rmtree(run / "test")


def remove_metrics(run: Path) -> None:
    (run / "metrics.csv").unlink()


def remove_record(run: Path) -> None:
    (run / "run.json").unlink()


def cut_metrics(run: Path) -> None:
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text[: len(text) // 2] + "\n")


def remove_summary(run: Path) -> None:
    (run / "test/summary.json").unlink()


def remove_column(run: Path) -> None:
    table = run / "test/samples.csv"
    table.write_text(table.read_text().replace("probability", "chance"))


def cut_samples(run: Path) -> None:
    table = run / "test/samples.csv"
    table.write_text(table.read_text()[:-40])


def damage_cell(run: Path) -> None:
    table = run / "test/samples.csv"
    table.write_text(table.read_text().replace("\n0,", "\nzero,"))


def damage_image(run: Path) -> None:
    for path in (run / "test/images").glob("*.png"):
        path.write_bytes(path.read_bytes()[:40])


def damage_config(run: Path) -> None:
    (run / "config.yaml").write_text("model: [")


def lose_class(run: Path) -> None:
    summary = json.loads((run / "test/summary.json").read_text())
    (run / "test/summary.json").write_text(json.dumps(summary | {"class_names": ["circle"]}))


def damage_figure(run: Path) -> None:
    folder = run / "figures/samples"
    folder.mkdir(parents=True)
    (folder / "0000003.png").write_bytes(b"\x89PNG no image")


def test_playground_of_the_run_is_linked(run: Path) -> None:
    assert "../play/index.html" not in report(run).links
    (run / "play").mkdir()
    (run / "play/index.html").touch()
    page = report(run)
    assert "../play/index.html" in page.links
    assert page.broken_links() == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_test, "darkroom test --ckpt_path"),
        (remove_metrics, "metrics.csv is missing"),
        (remove_record, "run.json is missing"),
        (cut_metrics, "1 damaged row"),
        (remove_summary, "the test did not end"),
        (remove_column, "there is no column or table 'probability'"),
        (cut_samples, "samples.csv is damaged"),
        (damage_cell, "could not convert string to float: 'zero'"),
        (damage_image, "The test results cannot be shown"),
        (damage_config, "config.yaml cannot be read"),
        (lose_class, "The test results cannot be shown"),
        (damage_figure, "The figure figures/samples/0000003.png is left out"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_written(run: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(run)
    page = report(run)
    assert said in page.text.split("What is missing")[-1]
    assert page.broken_links() == []
    assert ("curves" in page.ids) == (damage is not remove_metrics)
    assert ("config" in page.ids) == (damage is not damage_config)
    assert "environment" in page.ids


def test_test_without_images_is_reported(tmp_path: Path) -> None:
    for task in ("classification", "segmentation", "detection"):
        page = report(write_run(tmp_path / task / "0", task, kept=0))
        assert "The test kept no images." in page.text
        assert page.leads == []


def test_detector_without_detections_is_reported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/yolo/0", "detection")
    for name in ("detections", "truths"):
        head = (run / f"test/{name}.csv").read_text().splitlines()[0]
        (run / f"test/{name}.csv").write_text(head + "\n")
        page = report(run)
        assert "There are no detections to compute F1 from." in page.text
        assert "cannot be shown" not in page.text


# --- command ----------------------------------------------------------------------------------------------------------


def test_command_prints_the_pages(darkroom: Callable, run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "runs/vae/0", "autoencoding")
    outcome = darkroom("report", run, other)
    assert outcome.code == 0
    assert outcome.out.splitlines() == [str(one / "report/index.html") for one in (run, other)]


def test_folder_without_a_run_is_one_message(darkroom: Callable, run: Path) -> None:
    outcome = darkroom("report", run.parent)
    assert outcome.code == 2
    assert outcome.message.count("\n") == 1
    assert "no config.yaml; it holds the runs" in outcome.message


@pytest.mark.slow
def test_report_does_not_import_torch(run: Path) -> None:
    (run / "metrics.csv").unlink()  # fewer plots, but real ones
    code = (
        "import sys; from darkroom.__main__ import main; main(['report', sys.argv[1]]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    figure = run / "report/figures/reliability"
    assert figure.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert ">mean confidence (0 to 1)<" in figure.with_suffix(".svg").read_text()
    with Image.open(figure.with_suffix(".png")) as image:
        assert min(image.size) > 300


def test_template_is_filled_with_what_the_run_has(darkroom: Callable) -> None:
    run = write_run(Path("runs/my_run & co/0"), "segmentation")
    figure = run / "figures/test_masks/0000030.png"
    figure.parent.mkdir(parents=True)
    Image.new("RGB", (64, 32)).save(figure)
    written = darkroom("report", run, "--template")
    document = run / "report/report.tex"
    assert written.out.splitlines() == [str(run / "report/index.html"), str(document)]
    text = document.read_text()
    assert "<<" not in text
    assert r"my\_run \& co/0" in text
    assert "darkroom fit --config configs/fake.yaml" in text
    assert r"\reporttable{tables/metrics.tex}" in text
    assert (
        r"\reportfigure{../figures/test_masks/0000030.png}{Truth, prediction and errors. Step 30 of the test.}" in text
    )
    files = re.findall(r"^\\report(?:figure|table){(.+?)}", text, re.MULTILINE)
    assert all((document.parent / file).is_file() for file in files)
    assert {path.name for path in document.parent.glob("figures/*.pdf")} < {Path(file).name for file in files}


def test_text_of_the_template_is_kept(darkroom: Callable, run: Path) -> None:
    document = write_report(run, template=True).with_name("report.tex")
    document.write_text("mine")
    assert darkroom("report", run).code == 0
    refused = darkroom("report", run, "--template")
    assert refused.code == 2
    assert "exists; move it away" in refused.err
    assert document.read_text() == "mine"
