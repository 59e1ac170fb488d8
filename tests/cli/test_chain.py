"""``darkroom chain``: stages in order, resumed where they stopped, refused where they cannot work."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from darkroom.cli.chain import parse
from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation import FCN
from tests.conftest import CONFIGS
from tests.fakes.commands import on_two_ranks

COARSE, FINE = "runs/coarse-fine/1-coarse/0", "runs/coarse-fine/2-fine/0"
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
OPTIONS = (*QUIET, "--seed_everything", "3", "--config", str(CONFIGS / "trainer/debug.yaml"))


def write_stage(name: str, trainer: dict | None = None, **arguments: Any) -> str:
    """Write the config of a tiny FCN on Shapes, which trains two steps."""
    data = {"side": 32, "train_size": 8, "val_size": 4, "test_size": 4, "batch_size": 4, "num_workers": 0}
    model = {"backbone": "vgg11_bn", "width": 0.05, "stride": 32, **arguments}
    config = {
        "model": {"class_path": "FCN", "init_args": model},
        "data": {"class_path": "ShapesSegmentation", "init_args": data},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, "num_sanity_val_steps": 0}
        | (trainer or {}),
    }
    Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    return f"{name}.yaml"


@pytest.fixture
def stages() -> list[str]:
    return [write_stage("coarse"), write_stage("fine", stride=16)]


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chains") / "runs"


@pytest.fixture
def finished(darkroom: Callable, stages: list[str], _finished: Path) -> list[str]:
    """Stages of a finished chain, whose runs are copied from one chain per process."""
    if _finished.exists():
        shutil.copytree(_finished, "runs")
    else:
        outcome = darkroom("chain", *stages, *OPTIONS)
        assert outcome.code == 0, outcome.err
        assert "test/mIoU" in outcome.out
        assert f"run folder: {FINE}" in outcome.out
        shutil.copytree("runs", _finished)
    return stages


def saved(run: str) -> dict:
    return yaml.safe_load(Path(run, "config.yaml").read_text())


def record(run: str) -> dict:
    return json.loads(Path(run, "stage.json").read_text())


def written_at(run: str) -> int:
    return Path(run, "checkpoints/best.ckpt").stat().st_mtime_ns


@pytest.mark.usefixtures("finished")
def test_each_stage_starts_from_the_one_before_and_last_is_tested() -> None:
    assert saved(COARSE)["model"]["init_args"]["init_from"] is None
    assert saved(FINE)["model"]["init_args"]["init_from"] == f"{COARSE}/checkpoints/best.ckpt"
    assert [saved(run)["seed_everything"] for run in (COARSE, FINE)] == [3, 3]
    assert [saved(run)["trainer"]["detect_anomaly"] for run in (COARSE, FINE)] == [True, True]  # of the overlay
    assert record(FINE)["finished"]
    assert record(FINE)["parameters"] > record(COARSE)["parameters"] > 100_000
    assert record(COARSE)["test_seconds"] is None
    assert 0 < record(FINE)["test_seconds"] < 60


@pytest.mark.slow
def test_first_stage_equals_fit_of_its_config(darkroom: Callable, stages: list[str]) -> None:
    assert darkroom("chain", *stages, *QUIET).code == 0
    assert darkroom("fit", "--config", stages[0], *QUIET, "--experiment", "alone").code == 0
    chained, alone = (
        torch.load(f"{run}/checkpoints/best.ckpt", weights_only=True)["state_dict"] for run in (COARSE, "runs/alone/0")
    )
    assert all(torch.equal(chained[name], value) for name, value in alone.items())


def test_finished_stages_are_not_trained_again(darkroom: Callable, finished: list[str]) -> None:
    times = [written_at(run) for run in (COARSE, FINE)]
    outcome = darkroom("chain", *finished, *OPTIONS)
    assert outcome.code == 0
    assert f"stage 1 of 2, coarse.yaml: finished in {COARSE}" in outcome.err
    assert "test/mIoU" in outcome.out
    assert [written_at(run) for run in (COARSE, FINE)] == times
    assert sorted(path.name for path in Path("runs/coarse-fine").glob("*/*")) == ["0", "0"]


@pytest.mark.slow
def test_stage_is_added_to_finished_chain(darkroom: Callable, stages: list[str]) -> None:
    assert darkroom("chain", stages[0], "--experiment", "it", *QUIET).code == 0
    first = written_at("runs/it/1-coarse/0")
    assert darkroom("chain", *stages, "--experiment", "it", *QUIET).code == 0
    assert written_at("runs/it/1-coarse/0") == first
    assert record("runs/it/2-fine/0")["finished"]


@pytest.mark.slow
def test_stopped_stage_resumes(darkroom: Callable, stages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step = FCN.training_step

    def stopped_step(self: FCN, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        if self.init_from and self.trainer.global_step == 2:  # in the second epoch of the second stage
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    longer = ("--trainer.max_epochs", 2, *QUIET)
    monkeypatch.setattr(FCN, "training_step", stopped_step)
    outcome = darkroom("chain", *stages, *longer)
    assert outcome.code == 128 + signal.SIGTERM
    assert "stage 2 of 2, fine.yaml: ended with exit code 143" in outcome.err
    first, stopped = written_at(COARSE), record(FINE)
    assert not stopped["finished"]
    assert torch.load(f"{FINE}/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    monkeypatch.setattr(FCN, "training_step", step)
    assert darkroom("chain", *stages, *longer, "--ckpt_path", "last").code == 0  # as the message above advises
    assert torch.load(f"{FINE}/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert written_at(COARSE) == first
    assert record(FINE)["finished"]
    assert record(FINE)["fit_seconds"] > stopped["fit_seconds"]


@pytest.mark.slow
def test_stage_that_fails_ends_chain_with_its_exit_code(darkroom: Callable, stages: list[str]) -> None:
    wrong = write_stage("broken", loss={"class_path": "tests.fakes.parts.NanAt", "init_args": {"call": 1}})
    outcome = darkroom("chain", wrong, stages[1], *QUIET)
    assert outcome.code == 1
    assert "stage 1 of 2, broken.yaml: ended with exit code 1" in outcome.err
    assert outcome.err.count("darkroom: error:") == 1
    assert not Path("runs/broken-fine/2-fine").exists()


def test_options_of_the_chain_itself_are_not_options_of_the_stages() -> None:
    words = ["a.yaml", "x/b.yaml", "--experiment=it", "--data.root", "x", "--runs_dir", "r", "--test_ckpt", "last"]
    chain = parse([*words, "--model.init_from", "start.ckpt", "--config", "configs/trainer/bf16.yaml"])
    assert chain.test_ckpt == "last"
    shared = ["--data.root", "x", "--model.init_from", "start.ckpt", "--config", "configs/trainer/bf16.yaml"]
    place = ["--experiment", "it/1-a", "--runs_dir", "r"]
    assert chain.fit_arguments(0) == ["fit", "--config", "a.yaml", *shared, *place]
    assert chain.fit_arguments(1)[-2:] == ["--model.init_from", "r/it/1-a/0/checkpoints/best.ckpt"]


def test_stage_in_quotes_has_options_of_its_own() -> None:
    chain = parse(["a.yaml --data.crops objects", "a.yaml --data.captions '[\"a b\"]'", "--seed_everything", "1"])
    first, second = (chain.fit_arguments(index) for index in range(2))
    assert first[:7] == ["fit", "--config", "a.yaml", "--seed_everything", "1", "--data.crops", "objects"]
    assert second[5:7] == ["--data.captions", '["a b"]']
    assert [stage.experiment for stage in chain.stages] == ["a-a/1-a", "a-a/2-a"]


def test_stage_may_be_a_file_with_a_space_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "my net.yaml").touch()
    assert parse(["my net.yaml"]).stages[0].config == "my net.yaml"


def test_experiment_is_named_after_configs() -> None:
    overlays = ["--config", "configs/data/images/digits.yaml", "--config", "configs/trainer/bf16.yaml"]
    assert parse(["a.yaml", "b.yaml", *overlays]).stages[1].experiment == "a-b-digits/2-b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs the config of a stage first"),
        ([" "], "needs the config of a stage first"),
        (["--experiment", "it"], "needs the config of a stage first"),
        (["a.yaml", "--ckpt_path", "best"], "always resumes from last.ckpt"),
        (["a.yaml", "--test_ckpt", "newest"], "test_ckpt must be best or last, got newest"),
    ],
)
def test_wrong_command_line_says_what_is_right(options: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(options)


def test_help_shows_usage(darkroom: Callable) -> None:
    assert "usage: darkroom chain STAGE [STAGE ...]" in darkroom("chain", "--help").out
    assert "  chain  " in darkroom("--help").out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strid": 8}, "model.strid"),
        ({"stride": 7}, "model.stride"),
        ({"num_classes": 3}, "stage 2 of 2, wrong.yaml: model.num_classes is 3, but ShapesSegmentation has 6"),
        ({"width": 0.2}, "stage 2 of 2, wrong.yaml: model.init_from: FCN does not fit FCN"),
        ({"backbone": "lenet"}, "model.backbone"),
        (None, "stage 2 of 2, missing.yaml: config missing.yaml does not exist"),
    ],
)
def test_later_stage_is_checked_before_the_first_trains(
    darkroom: Callable, stages: list[str], wrong: dict | None, message: str
) -> None:
    later = "missing.yaml" if wrong is None else write_stage("wrong", **wrong)
    outcome = darkroom("chain", stages[0], later, *QUIET)
    assert outcome.code == 2
    assert message in outcome.message
    assert "stage 2 of 2" in outcome.message
    assert outcome.err.count("darkroom: error:") == 1
    assert not Path("runs").exists()


def test_changed_option_of_finished_stage_is_refused(darkroom: Callable, finished: list[str]) -> None:
    times = [written_at(run) for run in (COARSE, FINE)]
    write_stage("fine", stride=16, dropout=0.25)
    outcome = darkroom("chain", *finished, *OPTIONS)
    assert outcome.code == 2
    assert f"stage 2 of 2, fine.yaml: model.dropout is 0.25, but {FINE} was started with 0.5" in outcome.message
    assert "choose another --experiment" in outcome.message
    other = ("--trainer.callbacks", "LearningRateMonitor", "--data.num_workers", 1)
    assert "coarse.yaml: trainer.callbacks is" in darkroom("chain", *finished, *OPTIONS, *other).message
    assert [written_at(run) for run in (COARSE, FINE)] == times


def test_later_run_without_its_first_stage_is_refused(darkroom: Callable, stages: list[str]) -> None:
    Path(FINE).mkdir(parents=True)
    message = darkroom("chain", *stages, *QUIET).message
    assert f"{FINE} exists, but {COARSE}, whose weights it starts from, is not finished" in message


def test_stage_without_checkpoint_is_explained(darkroom: Callable, stages: list[str]) -> None:
    outcome = darkroom("chain", *stages, *QUIET, "--trainer.fast_dev_run", "true")
    assert outcome.code == 2
    assert f"{COARSE} has no checkpoint" in outcome.message


@pytest.mark.slow
def test_fit_without_validation_hands_on_its_last_checkpoint(darkroom: Callable, stages: list[str]) -> None:
    assert darkroom("chain", *stages, *QUIET, "--trainer.limit_val_batches", 0).code == 0
    assert saved(FINE)["model"]["init_args"]["init_from"] == f"{COARSE}/checkpoints/last.ckpt"


@pytest.mark.slow
def test_classes_may_differ_between_stages(darkroom: Callable) -> None:
    classifier = yaml.safe_load((CONFIGS / "classification/vgg.yaml").read_text())
    classifier["model"]["init_args"]["network"]["init_args"]["width"] = 0.05
    sizes = {"train_size": 8, "val_size": 4, "test_size": 4, "batch_size": 4, "num_workers": 0}
    normalization = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    classifier["data"]["init_args"] |= sizes | normalization
    classifier["trainer"] = {"max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    Path("classifier.yaml").write_text(yaml.safe_dump(classifier))
    outcome = darkroom("chain", "classifier.yaml", write_stage("fcn"), *QUIET, "--trainer.accelerator", "cpu")
    assert outcome.code == 0, outcome.err
    assert Path("runs/classifier-fcn/2-fcn/0/test.yaml").is_file()


def test_normalization_of_stages_must_agree(darkroom: Callable, stages: list[str]) -> None:
    other = yaml.safe_load(Path(stages[1]).read_text())
    other["data"]["init_args"] |= {"mean": [0.1, 0.1, 0.1], "std": [0.2, 0.2, 0.2]}
    Path("other.yaml").write_text(yaml.safe_dump(other))
    outcome = darkroom("chain", stages[0], "other.yaml", *QUIET)
    assert outcome.code == 2
    assert "stage 2 of 2, other.yaml: data.mean and data.std must be [0.485, 0.456, 0.406] and [0.229," in outcome.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_wandb_runs_are_named_after_experiment_and_stage(darkroom: Callable, stages: list[str]) -> None:
    pytest.importorskip("wandb")
    logger = ("--config", CONFIGS / "logger/wandb.yaml")
    assert darkroom("chain", stages[0], "--experiment", "it", *QUIET, *logger).code == 0
    logs = list(Path("runs/it/1-coarse/0/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 2  # of the fit and of the test
    assert all(b"it/1-coarse/0" in log.read_bytes() for log in logs)


@pytest.mark.slow
def test_chain_on_two_ranks_of_torchrun(stages: list[str]) -> None:
    commands = on_two_ranks("chain", *stages, *QUIET)
    assert [command.wait() for command in commands] == [0, 0], [command.text for command in commands]
    assert saved(FINE)["model"]["init_args"]["init_from"] == f"{COARSE}/checkpoints/best.ckpt"
    assert record(FINE)["test_seconds"] > 0
