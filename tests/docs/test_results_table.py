"""``make results``: its rows, that it resumes, and that docs and heads of configs agree with the raw results."""

import math
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.results.commands import CommandFailedError
from benchmarks.results.table import runner
from benchmarks.results.table.__main__ import main, next_seed, run_rows
from benchmarks.results.table.page import render, rendered_files, update_head, update_marked
from benchmarks.results.table.raw import Result, current_results, read_results, write_result
from benchmarks.results.table.rows import ROOT, Row, read_rows
from benchmarks.results.table.runner import RowFailedError, Runner, read_test_metrics
from darkroom.runtime.records.past_tests import append_test
from tests.conftest import CONFIGS

FAMILIES = ("segmentation", "detection", "classification", "autoencoding", "adversarial", "diffusion")
ROWS = read_rows()
UNET, YOLO = ROWS["segmentation/unet"], ROWS["detection/yolo"]


def result(row: Row, seed: int = 0, fit_seconds: Sequence[float] = (100.0,), **metrics: float) -> Result:
    return Result(
        row=row.name,
        seed=seed,
        configs=row.fingerprint(ROWS),
        metrics=metrics or dict.fromkeys(row.metrics, 0.5 + 0.1 * seed),
        fit_seconds=list(fit_seconds),
        test_seconds=20.0,
        parameters=1234567,
        precision="32-true",
        machine="A processor, 2 cores, AVX2; torch 2.15",
        commit="abc1234",
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def test_stages_of_every_row_exist() -> None:
    missing = [path for row in ROWS.values() for path in row.config_files() if not path.is_file()]
    assert missing == []
    assert all(name in ROWS for row in ROWS.values() for name in row.used_rows())


def test_every_embedded_config_is_in_the_table() -> None:
    here = {path for row in ROWS.values() for path in row.config_files()}
    assert {path for family in FAMILIES for path in (CONFIGS / family).glob("*.yaml")} - here == set()


def test_stages_become_arguments_of_chain() -> None:
    row = Row("a/b", "a", {}, stages=("classification/vgg", "segmentation/fcn --data.side 64"))
    assert row.stage_arguments() == ["configs/classification/vgg.yaml", "configs/segmentation/fcn.yaml --data.side 64"]


def test_fingerprint_follows_options_and_used_rows() -> None:
    plain = Row("a/b", "a", {}, stages=("segmentation/fcn",))
    optioned = Row("a/b", "a", {}, stages=("segmentation/fcn --data.side 64",))
    user = Row("a/c", "a", {}, stages=("segmentation/unet",), uses={"model.base": ["a/b"]})
    assert plain.fingerprint({}) != optioned.fingerprint({})
    assert user.fingerprint({"a/b": plain}) != user.fingerprint({"a/b": optioned})


# --- running ----------------------------------------------------------------------------------------------------------


class FakeRun:
    """Counts the runs of each row; fails or stops when it is asked to."""

    def __init__(self, fit_seconds: float = 100.0) -> None:
        self.ran: list[tuple[str, int]] = []
        self.fit_seconds, self.fails, self.stopping = fit_seconds, set[str](), threading.Event()
        self.stop_after: int | None = None

    def __call__(self, row: Row, seed: int) -> Result:
        if row.name in self.fails:
            raise RowFailedError("exit code 1")
        self.ran.append((row.name, seed))
        if len(self.ran) == self.stop_after:
            self.stopping.set()
        return result(row, seed, [self.fit_seconds])


def test_finished_rows_are_not_run_again_and_stopped_command_resumes(tmp_path: Path) -> None:
    file, run = tmp_path / "results.jsonl", FakeRun()
    run.stop_after = 2
    assert run_rows([UNET.name, YOLO.name], ROWS, run, file, stopping=run.stopping) == []
    assert run.ran == [(UNET.name, 0), (UNET.name, 1)]
    again = FakeRun()
    run_rows([UNET.name, YOLO.name], ROWS, again, file)
    assert again.ran == [(UNET.name, 2), (YOLO.name, 0), (YOLO.name, 1), (YOLO.name, 2)]
    nothing = FakeRun()
    run_rows([UNET.name, YOLO.name], ROWS, nothing, file)
    assert nothing.ran == []


def test_long_fits_have_one_seed_unless_more_are_wanted(tmp_path: Path) -> None:
    run = FakeRun(fit_seconds=301)
    run_rows([UNET.name], ROWS, run, tmp_path / "results.jsonl")
    assert run.ran == [(UNET.name, 0)]
    run_rows([UNET.name], ROWS, run, tmp_path / "results.jsonl", seeds=2)
    assert run.ran == [(UNET.name, 0), (UNET.name, 1)]
    assert next_seed([result(UNET, 1)], None) == 0


def test_failed_row_does_not_end_the_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = FakeRun()
    run.fails = {UNET.name}
    assert run_rows([UNET.name, YOLO.name], ROWS, run, tmp_path / "results.jsonl", seeds=1, cores=2) == [UNET.name]
    assert run.ran == [(YOLO.name, 0)]
    printed = capsys.readouterr().out
    assert "segmentation/unet, seed 0: exit code 1" in printed
    assert "row 2 of 2 done; about 0 s left" in printed


def test_result_of_changed_configs_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    old = Result(**{**vars(result(UNET)), "configs": "old"})
    for one in (old, Result(**{**vars(old), "seed": 1}), result(YOLO)):
        write_result(file, one)
    assert current_results(UNET, ROWS, read_results(file)) == []
    write_result(file, result(UNET, 2))
    assert read_results(file) == [result(YOLO), result(UNET, 2)]


def test_rows_that_cannot_run_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RowFailedError, match="needs a folder of emoji"):
        Runner(ROWS, tmp_path)(ROWS["diffusion/captions/imagen_emoji"], 0)
    monkeypatch.setattr(runner, "find_spec", lambda name: None)
    with pytest.raises(RowFailedError, match=r"needs the package segmentation_models_pytorch: pip install .*\[smp\]"):
        Runner(ROWS, tmp_path)(ROWS["segmentation/smp_unet"], 0)


def test_fit_gets_checkpoint_of_the_row_that_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(Runner, "_darkroom", lambda self, words, experiment: commands.append(words))
    with pytest.raises(CommandFailedError, match="must have a test"):  # nothing was run
        Runner(ROWS, tmp_path)(ROWS["diffusion/guidance/classifier_guidance"], 0)
    (classifier, guided) = commands
    assert classifier[:2] == ["chain", "configs/diffusion/guidance/noisy_classifier.yaml"]
    assert guided[:2] == ["chain", "configs/diffusion/guidance/classifier_guidance.yaml"]
    checkpoint = Path(guided[guided.index("--model.classifier.ckpt_path") + 1])
    assert checkpoint.name == "best.ckpt"
    assert checkpoint.parents[2] == tmp_path / classifier[classifier.index("--experiment") + 1] / "1-noisy_classifier"


def test_finite_metrics_of_newest_test_are_read(tmp_path: Path) -> None:
    append_test(tmp_path, "best.ckpt", {"test/mIoU": 0.1234567})
    append_test(tmp_path, "best.ckpt", {"test/mIoU": 0.7654321, "test/IoU/star": math.nan})
    assert read_test_metrics(tmp_path) == {"mIoU": 0.765432}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "segmentation/unett"], "--only must name rows or families, got segmentation/unett"),
        (["--trainer.max_epochs", "1"], "--trainer.max_epochs changes the configs"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert message in capsys.readouterr().err


# --- page, marked numbers and heads ---------------------------------------------------------------------------------


def line_of(page: str, name: str) -> str:
    (line,) = [line for line in page.splitlines() if line.startswith("|") and f"[{name}]" in line]
    return line


def test_page_has_mean_deviation_time_and_machine() -> None:
    page = render(ROWS, [result(UNET, 0, mIoU=0.9), result(UNET, 1, mIoU=0.92), result(YOLO, VOC_AP50=0.6, mAP=0.3)])
    assert line_of(page, "unet") == (
        "| [unet](<code:configs/segmentation/unet.yaml>) | mIoU **0.910** ± 0.014 | 2 | 2 min 0 s | 1,234,567 | 32 | 1 | "
        "abc1234 |"
    )
    assert "| VOC AP50 **0.600**, COCO AP **0.300** | 1 |" in line_of(page, "yolo")
    assert line_of(page, "fcn").endswith("| not run | | | | | | |")
    assert "| not run: needs a folder of emoji |" in line_of(page, "imagen_emoji")
    assert page.endswith("## Machines\n\n1. A processor, 2 cores, AVX2; torch 2.15\n")


def test_page_shows_time_of_pretraining() -> None:
    row = Row("segmentation/fcn", "segmentation", {"mIoU": "mIoU"}, ("classification/vgg", "segmentation/fcn"))
    measured = Result(**{**vars(result(row, 0, [90.0, 100.0], mIoU=0.8)), "configs": row.fingerprint({})})
    line = line_of(render({row.name: row}, [measured]), "fcn")
    assert line.startswith("| vgg, then [fcn](")
    assert "| 3 min 30 s (1 min 30 s) |" in line


def test_page_names_fits_of_used_rows_unless_row_is_only_tested() -> None:
    guided, cascade = ROWS["diffusion/guidance/classifier_guidance"], ROWS["diffusion/imagen_cascade"]
    page = render(ROWS, [result(guided, 0, [60.0, 120.0]), result(cascade, 0, [300.0])])
    assert line_of(page, "classifier_guidance").startswith("| noisy_classifier, then [classifier_guidance](")
    assert "| 3 min 20 s (1 min 0 s) |" in line_of(page, "classifier_guidance")
    assert line_of(page, "imagen_cascade").startswith("| [imagen_cascade](")
    assert "| 5 min 20 s |" in line_of(page, "imagen_cascade")


def test_marked_number_follows_result() -> None:
    found = [result(UNET, 0, mIoU=0.9), result(UNET, 1, mIoU=0.92)]
    mark = "<!-- result: segmentation/unet mIoU -->"
    text = f"a **0.123**{mark} b .12{mark} c 0.5<!-- result: detection/yolo mAP --> d 0.123"
    assert update_marked(text, ROWS, found) == text.replace("0.123**", "0.910**").replace(".12<", ".91<")
    with pytest.raises(ValueError, match="must be a row of"):
        update_marked("1<!-- result: segmentation/none mIoU -->", ROWS, found)
    with pytest.raises(ValueError, match="the metric must be one of mIoU"):
        update_marked("1<!-- result: segmentation/unet mIoUs -->", ROWS, found)


def test_marked_time_follows_result() -> None:
    text = "a 9 min<!-- result: segmentation/unet time --> b 5 min 1 s"
    found = [result(UNET, 0, mIoU=0.9)]
    assert update_marked(text, ROWS, found) == text.replace("9 min<", "2 min 0 s<")
    assert update_marked(text, ROWS, []) == text
    with pytest.raises(ValueError, match="must be a row of"):
        update_marked("3 s<!-- result: segmentation/none time -->", ROWS, found)


def test_head_of_config_follows_result() -> None:
    head = "# U-Net: test mIoU 0.5 in 2 min 20 s on two CPU cores (bf16), with occlusion\n# mIoU 0.5 in 1 min 1 s"
    assert update_head(head, UNET, ROWS, []) == head
    new = update_head(head, UNET, ROWS, [result(UNET, mIoU=0.94)])
    assert new == "# U-Net: test mIoU 0.9 in 2 min 0 s on one CPU core, with occlusion\n# mIoU 0.5 in 1 min 1 s"
    with pytest.raises(ValueError, match="the first line must state a number after 'mIoU', got # U-Net$"):
        update_head("# U-Net\nmodel:", UNET, ROWS, [result(UNET, mIoU=0.94)])


def test_docs_and_heads_agree_with_raw_results() -> None:
    differ = [path for path, text in rendered_files(ROWS, read_results()).items() if path.read_text() != text]
    names = [path.relative_to(ROOT).as_posix() for path in differ]
    assert names == [], "python -m benchmarks.results.table --render writes them"
