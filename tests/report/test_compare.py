"""``darkroom compare``: groups of seeds, refusals, paired differences, tables and the page."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from darkroom.errors import DataError, UsageError
from darkroom.report.compare.bootstrap import DRAWS, Difference, mean_statistic, paired_difference, resample
from darkroom.report.compare.groups import differing_options, group_runs, require_comparable, seed_notes
from darkroom.report.compare.page import seed_bands
from darkroom.report.compare.rows import make_rows, metrics_to_compare, spread
from darkroom.report.compare.side_by_side import shared_samples
from darkroom.report.compare.statistics import average_precision_statistic
from darkroom.report.compare.table import lower_is_better, make_table
from darkroom.report.compare.wandb_folder import is_wandb_folder, read_wandb_folder
from darkroom.report.run import read_run
from darkroom.report.tasks.matching import Detections, Found, Objects
from darkroom.runtime.records.results import Task
from tests.fakes.runs import write_run

pytestmark = pytest.mark.usefixtures("quick_plots")


def make_run(
    folder: Path,
    right: Sequence[int] = (1, 1, 0, 0),
    seed: int = 0,
    lr: float = 0.1,
    data: dict[str, object] | None = None,
    monitor: str = "val/accuracy",
    tested: bool = True,
    flip: bool = False,
) -> Path:
    """Write a run of a classifier whose test sample i is right where ``right[i]`` is 1; ``flip``: other truth."""
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "experiment": folder.parent.name,
        "model": {"class_path": "ImageClassifier", "init_args": {"optim": {"lr": lr}}},
        "data": {"class_path": "ShapesImages", "init_args": {"side": 32, **(data or {})}},
        "trainer": {"max_epochs": 1},
        "checkpoint": {"monitor": monitor, "mode": "max"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    name = monitor.partition("/")[2]
    accuracy = sum(right) / len(right)
    (folder / "metrics.csv").write_text(
        f"step,epoch,train/loss,{monitor},test/{name}\n4,0,{1.5 + seed},,\n8,0,,{accuracy},\n8,0,,,{accuracy}\n"
    )
    if tested:
        (folder / "test").mkdir()
        summary = {"task": "classification", "class_names": ["a", "b"], "num_samples": len(right)}
        (folder / "test/summary.json").write_text(json.dumps({**summary, "metrics": {f"test/{name}": accuracy}}))
        truths = [(index + flip) % 2 for index in range(len(right))]
        pairs = zip(truths, right, strict=True)
        rows = [f"{index},{truth},{truth if ok else 1 - truth}" for index, (truth, ok) in enumerate(pairs)]
        (folder / "test/samples.csv").write_text("\n".join(["sample,truth,predicted", *rows, ""]))
    return folder


def test_runs_that_differ_in_seed_are_one_method(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"runs/a/{seed}", seed=seed) for seed in range(2)]
    folders.append(make_run(tmp_path / "runs/b/0", lr=0.2))
    groups = group_runs([read_run(folder) for folder in folders])
    assert [(group.name, group.seeds) for group in groups] == [("a", ["0", "1"]), ("b", ["0"])]
    assert differing_options(groups) == {"model.optim.lr": [0.1, 0.2]}
    assert seed_notes(groups) == ["b has no run with seed 1.", "b has one seed, so its deviation is not known."]


def test_run_given_twice_is_refused(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "runs/a/0"))
    with pytest.raises(UsageError, match="given twice"):
        group_runs([run, run])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"side": 64}}, r"data.side must be the same, but is 32 and 64"),
        ({"monitor": "val/mIoU"}, r"main metric must be the same, but is val/accuracy and val/mIoU"),
        ({"right": (1, 1, 0)}, r"samples must be the same, but the first has 1 which the second lacks, and lacks 0 of"),
        ({"flip": True}, r"test samples must be the same, but the recorded truth differs"),
    ],
)
def test_runs_of_other_data_or_metrics_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    runs = [read_run(make_run(tmp_path / "runs/a/0")), read_run(make_run(tmp_path / "runs/b/0", lr=0.2, **change))]
    with pytest.raises(UsageError, match=message):
        require_comparable(group_runs(runs))


def test_training_options_of_data_may_differ(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / f"runs/{name}/0", data={"batch_size": size, "train_size": size}))
        for name, size in (("a", 8), ("b", 16))
    ]
    require_comparable(group_runs(runs))


def test_spread_is_mean_and_sample_deviation() -> None:
    assert spread([1.0, 3.0, None, float("nan")]) == spread([1.0, 3.0])
    found = spread([1.0, 3.0])
    assert found is not None
    assert (found.mean, found.deviation, found.count) == (2.0, pytest.approx(2**0.5), 2)
    assert str(spread([0.5])) == "0.5"
    assert spread([None]) is None


def test_paired_interval_covers_sampling_error_of_difference() -> None:
    """Compare with the standard error of a mean of paired differences, which the bootstrap estimates."""
    generator = np.random.default_rng(0)
    first = generator.normal(size=400)
    second = first + 0.1 + 0.5 * generator.normal(size=400)
    found = paired_difference(*(resample(mean_statistic(scores), np.ones(400, bool)) for scores in (first, second)))
    assert found is not None
    error = (second - first).std(ddof=1) / 20
    assert found.value == pytest.approx((second - first).mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.is_clear
    assert DRAWS >= 1000


def test_equal_methods_have_no_clear_difference() -> None:
    scores = np.array([0.0, 1.0, 1.0, np.nan])
    one = resample(mean_statistic(scores), np.isfinite(scores))
    found = paired_difference(one, one)
    assert found is not None
    assert (found.value, found.low, found.high, found.is_clear) == (0.0, 0.0, 0.0, False)


def test_average_precision_of_a_multiset_is_that_of_repeated_samples() -> None:
    generator = np.random.default_rng(0)
    boxes = generator.integers(0, 40, (60, 2)).repeat(2, 0).reshape(60, 4) + np.array([0.0, 0.0, 20.0, 20.0])
    sample, label = np.arange(30) // 3, generator.integers(1, 3, 30)
    objects = Objects(sample, label, boxes[:30], np.zeros(30, bool))
    moved = boxes[:30] + generator.integers(-6, 7, (30, 1))
    detections = Detections(sample, label, moved, generator.random(30))
    found = Found(objects, detections, ["a", "b"])
    statistic = average_precision_statistic(found, np.arange(10))
    times = np.array([2, 0, 1, 1, 3, 1, 0, 1, 1, 1])
    rows = np.concatenate([np.flatnonzero(sample == index) for index, count in enumerate(times) for _ in range(count)])
    names = np.repeat(np.arange(times.sum()), 3)
    again = Found(
        Objects(names, label[rows], boxes[:30][rows], np.zeros(30, bool)[rows]),
        Detections(names, label[rows], moved[rows], detections.scores[rows]),
        ["a", "b"],
    )
    expected = average_precision_statistic(again, np.arange(times.sum()))(np.ones((1, int(times.sum()))))
    assert statistic(times[None].astype(float)) == pytest.approx(expected)
    assert 0.05 < expected[0] < 0.95


def test_average_precision_is_area_below_voc_curve() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], dtype=float)
    objects = Objects(np.zeros(2, int), np.ones(2, int), boxes, np.zeros(2, bool))
    shifted = np.array([boxes[0], boxes[0] + 50, boxes[1]])
    found = Found(objects, Detections(np.zeros(3, int), np.ones(3, int), shifted, np.array([0.9, 0.8, 0.7])), ["a"])
    # Right, wrong, right: recall .5 at precision 1, recall 1 at precision 2/3.
    assert average_precision_statistic(found, np.arange(1))(np.ones((1, 1)))[0] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_average_precision_of_skipped_samples_refers_to_their_numbers() -> None:
    """Samples 3 and 9 were tested, the others skipped: a set of sample 9 alone has its precision."""
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], dtype=float)
    objects = Objects(np.array([3, 9]), np.ones(2, int), boxes, np.zeros(2, bool))
    detections = Detections(np.array([3, 9]), np.ones(2, int), boxes + np.array([[50.0], [0.0]]), np.array([0.9, 0.8]))
    statistic = average_precision_statistic(Found(objects, detections, ["a"]), np.array([3, 9]))
    assert statistic(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])) == pytest.approx(
        [1.0, 0.0, 0.25, np.nan], nan_ok=True
    )


def test_average_precision_in_parts_equals_that_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (8, 1))
    objects = Objects(np.arange(8), generator.integers(1, 3, 8), boxes, np.zeros(8, bool))
    found = Found(objects, Detections(np.arange(8), np.ones(8, int), boxes, generator.random(8)), ["a", "b"])
    weights = generator.integers(0, 3, (7, 8)).astype(float)
    expected = average_precision_statistic(found, np.arange(8))(weights)
    monkeypatch.setattr("darkroom.report.compare.statistics._MOST_CELLS", 16)
    assert average_precision_statistic(found, np.arange(8))(weights) == pytest.approx(expected)


def test_methods_without_values_have_no_difference() -> None:
    empty = Objects(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, bool))
    detections = Detections(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    statistic = average_precision_statistic(Found(empty, detections, ["a"]), np.arange(3))
    without = resample(statistic, np.ones(3, bool))
    diverged = resample(mean_statistic(np.full(3, np.nan)), np.zeros(3, bool))
    assert paired_difference(without, without) is None
    assert paired_difference(diverged, diverged) is None


def test_difference_is_of_samples_that_both_methods_scored(tmp_path: Path) -> None:
    """A sample without a score in one method, such as after an overflow, is left out of both."""
    folders = [write_run(tmp_path / f"runs/{name}/0", "autoencoding", samples=3) for name in ("one", "two")]
    for folder, errors in zip(folders, (("1", "2", "9"), ("2", "3", "nan")), strict=True):
        rows = ["sample,name,error", *(f"{index},,{error}" for index, error in enumerate(errors)), ""]
        (folder / "test/samples.csv").write_text("\n".join(rows))
    (folders[1] / "config.yaml").write_text((folders[1] / "config.yaml").read_text().replace("VAE", "AE"))
    _, second = make_rows(group_runs([read_run(folder) for folder in folders]), [])
    assert second.difference.value == pytest.approx(1.0)


def test_rows_average_seeds_and_pair_samples(tmp_path: Path) -> None:
    seeds = [(1, 1, 0, 0), (1, 0, 0, 0)]
    folders = [make_run(tmp_path / f"runs/a/{seed}", right, seed) for seed, right in enumerate(seeds)]
    folders.append(make_run(tmp_path / "runs/b/0", (1, 1, 1, 0), lr=0.2))
    groups = group_runs([read_run(folder) for folder in folders])
    names = metrics_to_compare(groups, [])
    assert names == ["test/accuracy"]
    first, second = make_rows(groups, names)
    assert first.metrics["test/accuracy"].mean == 0.375
    assert first.difference is None
    assert second.difference.value == pytest.approx(0.75 - 0.375)


def test_bands_are_means_over_seeds_at_each_step(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / f"runs/a/{seed}", seed=seed)) for seed in range(2)]
    steps, means, deviations = seed_bands(group_runs(runs)[0], "train/loss")
    assert (steps.tolist(), means.tolist()) == ([4], [2.0])
    assert deviations[0] == pytest.approx(2**-0.5)


@pytest.fixture
def two_methods(tmp_path: Path) -> list[Path]:
    """Runs of two methods, the second better, in the working folder."""
    return [
        make_run(Path("runs/a/0"), (1, 1, 0, 0)),
        make_run(Path("runs/a/1"), (1, 0, 0, 0), seed=1),
        make_run(Path("runs/b_c/0"), (1, 1, 1, 1), lr=0.2),
    ]


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("test/loss", True),
        ("train/loss/kl", True),
        ("test/squared_error", True),
        ("test/FID50k", True),
        ("test/IoU/kidney", False),
        ("test/confidence", False),
        ("test/accuracy/fid", False),
        ("test/psnr", False),
    ],
)
def test_direction_of_metrics(metric: str, lower: bool) -> None:
    assert lower_is_better(metric) is lower


@pytest.mark.parametrize(("low", "bold"), [(0.01, True), (-0.01, False)])
def test_difference_whose_interval_is_without_0_is_bold(tmp_path: Path, low: float, bold: bool) -> None:
    groups = group_runs(
        [read_run(make_run(tmp_path / f"runs/{name}/0", lr=lr)) for name, lr in (("a", 0.1), ("b", 0.2))]
    )
    first, second = make_rows(groups, ["test/accuracy"])
    rows = [first, dataclasses.replace(second, difference=Difference(0.02, low, 0.03))]
    assert [row[3].bold for row in make_table(rows, "accuracy").cells] == [False, bold]


def test_equal_best_values_are_all_bold(tmp_path: Path) -> None:
    rights = {"a": (1, 1, 0, 0), "b": (1, 0, 1, 0), "c": (1, 0, 0, 0)}
    folders = [make_run(tmp_path / f"runs/{name}/0", right, lr=len(name)) for name, right in rights.items()]
    for number, folder in enumerate(folders):
        (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("lr: 1", f"lr: {number}"))
    rows = make_rows(group_runs([read_run(folder) for folder in folders]), ["test/accuracy"])
    assert [row[2].bold for row in make_table(rows, None).cells] == [True, True, False]


def test_metrics_of_two_stages_have_their_full_names(darkroom: Callable, two_methods: list[Path]) -> None:
    done = darkroom("compare", *two_methods, "--metrics", "val/accuracy", "test/accuracy")
    assert done.code == 0, done.err
    columns = done.out.splitlines()[0].strip("| ").split(" | ")
    assert columns == ["method", "seeds", "val/accuracy", "accuracy: difference", "test/accuracy"]


def test_runs_whose_main_metric_is_nan_are_one_message(darkroom: Callable, two_methods: list[Path]) -> None:
    for folder in two_methods[:2]:
        (folder / "metrics.csv").write_text("step,epoch,val/accuracy,test/accuracy\n8,0,nan,\n8,0,,nan\n")
    done = darkroom("compare", *two_methods)
    assert (done.code, "a must have a finite value of the main metric" in done.message) == (2, True)


def test_damaged_config_is_named(darkroom: Callable, two_methods: list[Path]) -> None:
    (two_methods[2] / "config.yaml").write_text("model: {")
    assert "its config is not known: config.yaml cannot be read" in darkroom("compare", *two_methods).message


def test_folder_with_other_files_is_kept(darkroom: Callable, two_methods: list[Path]) -> None:
    figure = two_methods[0] / "figures/val_masks/0000008.png"
    figure.parent.mkdir(parents=True)
    figure.touch()
    done = darkroom("compare", *two_methods, "--folder", two_methods[0])
    assert (done.code, "must be a new or empty folder" in done.message) == (2, True)
    assert figure.is_file()
    assert [darkroom("compare", *two_methods, "--folder", "mine").code for _ in range(2)] == [0, 0]


def test_repeated_seeds_and_runs_without_results_are_said(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "runs/a/0"), make_run(tmp_path / "runs/a/1", tested=False)]
    notes = seed_notes(group_runs([read_run(folder) for folder in folders]))
    assert notes == [
        "ImageClassifier has several runs with seed 0; its deviation counts each run.",
        "ImageClassifier has no differences, because a/1 has no test results.",
    ]


def test_seeds_are_named_in_the_order_of_numbers(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"runs/a/{seed}", seed=seed) for seed in (2, 10)]
    groups = group_runs([read_run(folder) for folder in [*folders, make_run(tmp_path / "runs/b/0", lr=0.2)]])
    assert "b has no run with seed 2, 10." in seed_notes(groups)


def test_damaged_images_are_left_out(darkroom: Callable) -> None:
    folders = [write_run(Path(f"runs/{name}/0"), "segmentation", samples=3, kept=3) for name in ("one", "two")]
    (folders[1] / "config.yaml").write_text((folders[1] / "config.yaml").read_text().replace("UNet", "FCN"))
    damaged = folders[1] / "test/images/000001-prediction.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    done = darkroom("compare", *folders)
    assert done.code == 0, done.err
    page = Path("comparison/index.html").read_text()
    assert "1 of 3 samples are left out, because an image is damaged." in page
    assert page.count("<small>truth</small>") == 2


def test_command_prints_table_and_writes_page_latex_and_csv(darkroom: Callable, two_methods: list[Path]) -> None:
    done = darkroom("compare", *two_methods)
    assert done.code == 0, done.err
    table = [line.split(" | ") for line in done.out.splitlines() if line.startswith("|")]
    assert table[0][:3] == ["| method", "seeds", "accuracy"]
    assert table[2][:3] == ["| a", "2", "0.375 ± 0.177"]
    assert table[3][2] == "**1**"
    assert table[3][3].startswith("**+0.625 [+")  # bold: the interval leaves out 0
    assert "- b_c has no run with seed 1." in done.out
    page = Path("comparison/index.html").read_text()
    assert "0.375 ± 0.177" in page
    assert "model.optim.lr" in page
    latex = Path("comparison/tables/comparison.tex").read_text()
    assert r"0.375 $\pm$ 0.177" in latex
    assert r"b\_c" in latex
    assert r"\textbf{1}" in latex
    assert {"comparison.csv", "options.csv", "runs.csv"} <= {path.name for path in Path("comparison/tables").iterdir()}
    assert Path("comparison/figures/curve_val_accuracy.pdf").is_file()
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_runs_without_test_are_compared_in_validation(darkroom: Callable) -> None:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        make_run(Path(f"runs/{name}/0"), lr=lr, tested=False)
        text = Path(f"runs/{name}/0/metrics.csv").read_text().replace("test/", "other/")
        Path(f"runs/{name}/0/metrics.csv").write_text(text)
    done = darkroom("compare", "runs/a/0", "runs/b/0")
    assert done.code == 0, done.err
    assert "Metrics of the val samples" in Path("comparison/index.html").read_text()


def test_mistakes_are_one_message(darkroom: Callable, two_methods: list[Path]) -> None:
    unknown = darkroom("compare", *two_methods, "--metrics", "test/mIoU")
    assert (unknown.code, "--metrics test/mIoU must be a metric of the runs" in unknown.message) == (2, True)
    assert "test/accuracy" in unknown.message
    assert "no config.yaml; it holds the runs" in darkroom("compare", "runs/a").message
    assert "does not exist" in darkroom("compare", "runs/none").message


def test_offline_folder_of_wandb_is_compared(darkroom: Callable) -> None:
    import wandb

    for name, scores in (("a", (0.5, 0.25)), ("b", (0.5, 0.75))):
        config = yaml.safe_load(make_run(Path(f"made/{name}/0")).joinpath("config.yaml").read_text())
        config["model"]["init_args"]["optim"]["lr"] = scores[1]
        run = wandb.init(mode="offline", dir=".", config=config, id=name, reinit="finish_previous")
        for step, score in enumerate(scores):
            run.log({"val/accuracy": score, "epoch": step, "trainer/global_step": step})
        run.finish()
    wandb.teardown()  # waits until the files are written
    folders = sorted(Path("wandb").glob("offline-run-*"), key=lambda folder: folder.name[-1])
    done = darkroom("compare", *folders)
    assert done.code == 0, done.err
    assert "**0.75**" in done.out
    assert "| 0.5 |" in done.out


def test_offline_folder_within_a_run_stands_for_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs/a/0")
    inside = folder / "wandb/offline-run-20260101_000000-x"
    inside.mkdir(parents=True)
    (inside / "run-x.wandb").write_bytes(b":W&B")
    assert is_wandb_folder(inside)
    assert read_wandb_folder(inside).folder == folder


@pytest.mark.parametrize(
    ("content", "message"), [(b":W&B\0\0\0", "has no metrics"), (b"else", "must be a file of W&B")]
)
def test_damaged_file_of_wandb_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    folder = tmp_path / "alone/far/wandb/offline-run-20260101_000000-x"
    folder.mkdir(parents=True)
    (folder / "run-x.wandb").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_wandb_folder(folder)


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection", "captions", "autoencoding"])
def test_page_shows_same_images_of_both_methods(darkroom: Callable, task: Task) -> None:
    for name in ("one", "two"):
        folder = write_run(Path(f"runs/{name}/0"), task)
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("init_args: {}", f"init_args: {{name: {name}}}"))
    done = darkroom("compare", "runs/one/0", "runs/two/0")
    assert done.code == 0, done.err
    assert "[+0, +0]" in done.out  # equal results, paired
    page = Path("comparison/index.html").read_text()
    shown = re.findall(r"<small>(one|two): [^<]+</small>", page)
    expected = 0 if task == "autoencoding" else 12
    assert (shown.count("one"), shown.count("two")) == (expected, expected)


def test_samples_that_differ_most_are_shown_first(tmp_path: Path) -> None:
    results = [read_run(write_run(tmp_path / f"runs/{name}/0", "segmentation")).results for name in ("one", "two")]
    samples = results[1].tables["samples"]
    samples["mIoU"][7] = str(float(samples["mIoU"][7]) - 0.5)
    assert shared_samples(results)[0] == 7
