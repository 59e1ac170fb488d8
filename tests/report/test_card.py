"""Model card of a run: metadata for the hub, metrics with n, what is missing, and the user's own text."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from darkroom.report.card.write import front_matter, write_card
from darkroom.runtime.records.past_tests import PastTest
from darkroom.runtime.records.results import Task
from darkroom.runtime.records.run_record import DataFacts, read_record
from tests.fakes.runs import write_run


def facts(run: Path, **changes: Any) -> None:
    """Change the record of a run."""
    record = read_record(run)
    assert record is not None
    dataclasses.replace(record, **changes).write(run)


def configure(run: Path, **sections: Any) -> None:
    """Update sections of a run's config."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name, content in sections.items():
        config[name] = {**config[name], **content}
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished and tested run with a checkpoint and a figure."""
    folder = write_run(tmp_path / "runs/unet/0")
    for name in ("checkpoints/best.ckpt", "figures/test_masks/0000030.png", "figures/val_masks/0000020.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    data = DataFacts({"train": 80, "val": 20}, ["background", "circle"], [3, 64, 48], [0.485] * 3, [0.229] * 3)
    facts(folder, data=data, steps=30)
    return folder


def read(run: Path) -> str:
    return write_card(run).read_text()


def test_metadata_have_task_metrics_and_number_of_samples(run: Path) -> None:
    found = front_matter(read(run))
    assert (found["license"], found["pipeline_tag"], found["datasets"]) == (
        "unknown",
        "image-segmentation",
        ["ShapesSegmentation"],
    )
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": "ShapesSegmentation",
        "type": "ShapesSegmentation",
        "split": "test",
        "args": {"num_samples": 12},
    }
    assert [metric["type"] for metric in result["metrics"]] == ["mIoU"]


@pytest.mark.parametrize(
    ("task", "tag"),
    [
        ("classification", "image-classification"),
        ("detection", "object-detection"),
        ("autoencoding", "image-feature-extraction"),
    ],
)
def test_task_has_the_tag_of_the_hub(tmp_path: Path, task: Task, tag: str) -> None:
    assert front_matter(read(write_run(tmp_path / "one/0", task)))["pipeline_tag"] == tag


def test_model_with_a_text_encoder_is_text_to_image(tmp_path: Path) -> None:
    run = write_run(tmp_path / "imagen/0", "captions")
    configure(run, model={"init_args": {"text": {"class_path": "darkroom.lightning_modules.diffusion.text.MiniLM"}}})
    card = read(run)
    assert front_matter(card)["pipeline_tag"] == "text-to-image"
    assert "| text encoder MiniLM | Apache-2.0 |" in card


def test_card_states_method_data_training_and_loading(run: Path) -> None:
    card = read(run)
    for text in (
        "Paper: Ronneberger et al. 2015.",
        "| samples, train | 80 |",
        "| samples, test | 12 |",
        "| classes (2) | background, circle |",
        "64 x 48 pixels, 3 channels",
        "mean [0.485, 0.485, 0.485]",
        "| metric | test (n = 12) | validation (n = 20) |",
        "| finished epochs | 3 of 3 |",
        "| steps | 30 |",
        "| time | 12 min 34 s |",
        "| commit | 0123456789 |",
        "python 3.11.0, torch 2.11.0",
        "| `data.batch_size` | `8` | `16` |",
        "from darkroom.lightning_modules.segmentation import UNet",
        'UNet.load_from_checkpoint("checkpoints/best.ckpt"',
        "darkroom predict --ckpt_path checkpoints/best.ckpt",
        "![Masks](figures/test_masks/0000030.png)",
        "| data | not stated |",
    ):
        assert text in card
    assert "val_masks" not in card  # that of the test replaces it


def test_run_without_test_has_metrics_of_validation(run: Path) -> None:
    lines = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(lines[:-1]) + "\n")
    for path in sorted((run / "test").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (run / "test").rmdir()
    card = read(run)
    assert "in validation, at its best epoch (n = 20); the run has no test." in card
    assert "| metric | validation (n = 20) |" in card
    assert front_matter(card)["model-index"][0]["results"][0]["dataset"]["split"] == "validation"


def test_limited_validation_has_no_number_of_samples(run: Path) -> None:
    configure(run, trainer={"limit_val_batches": 2})
    assert "validation (n is not recorded)" in read(run)


def test_killed_run_is_named_so(run: Path) -> None:
    facts(run, state="running")
    (run / "checkpoints/last.ckpt").write_bytes(b"content")
    card = read(run)
    assert "The fit was stopped or killed before its end" in card
    assert "The training did not end" in card


def test_run_of_an_earlier_version_states_what_is_not_recorded(run: Path) -> None:
    (run / "run.json").unlink()
    card = read(run)
    assert "| samples, train | not recorded |" in card
    assert "| seed | 0 |" in card
    assert "the run has no `run.json`" in card


def test_user_class_without_source_is_named(run: Path) -> None:
    configure(run, model={"class_path": "lightning_modules.mine.MyNet"})
    assert "from lightning_modules.mine import MyNet" in read(run)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("https://me:hunter2@host/images", "`***`"),
        ("/home/me/data/dsb2018", "`…/dsb2018`"),
        ("C:\\Users\\me\\dsb2018", "`…/dsb2018`"),
        ("https://host/a/b.tar", "`https://host/a/b.tar`"),
        ("train/images", "`train/images`"),
    ],
)
def test_secrets_and_folders_of_the_machine_are_left_out(run: Path, value: str, shown: str) -> None:
    configure(run, data={"init_args": {"root": value}})
    card = read(run)
    assert f"| `data.root` | {shown} |" in card
    assert "hunter2" not in card


@pytest.mark.parametrize(
    ("options", "row"),
    [
        (
            {"backbone": "efficientnet_lite0", "weights": "imagenet"},
            "| ImageNet weights of efficientnet_lite0 | Apache-2.0 |",
        ),
        ({"backbone": "vgg16", "weights": "imagenet"}, "| ImageNet weights of vgg16 | not stated; torchvision refers"),
        ({"init_from": "/runs/kinds/0/best.ckpt"}, "| initial weights of `best.ckpt` | not stated |"),
    ],
)
def test_initial_weights_have_their_licence(run: Path, options: dict[str, str], row: str) -> None:
    configure(run, model={"init_args": options})
    assert row in read(run)


def test_notes_and_licence_stay_when_the_card_is_written_again(run: Path) -> None:
    path = write_card(run, license="apache-2.0")
    path.write_text(path.read_text().replace("card again. -->", "card again. -->\n\nMy text."))
    facts(run, commit="fedcba9876")
    assert write_card(run) == path
    card = path.read_text()
    assert "My text." in card
    assert "fedcba9876" in card
    assert "| these weights | apache-2.0 |" in card


def test_edited_card_is_not_replaced(run: Path) -> None:
    path = write_card(run)
    edited = path.read_text().replace("## Limits", "## Limits\n\nNot for surgery.")
    path.write_text(edited)
    assert write_card(run) == run / "card.new.md"
    assert path.read_text() == edited
    path.unlink()
    assert write_card(run) == path
    assert not (run / "card.new.md").exists()


def test_card_shows_exported_files(run: Path) -> None:
    for name in ("model.onnx", "model.json"):
        (run / "export").mkdir(exist_ok=True)
        (run / "export" / name).touch()
    assert "`export/model.json`, `export/model.onnx`" in read(run)


def record_tests(run: Path, *tests: PastTest) -> None:
    lines = [json.dumps(dataclasses.asdict(test)) for test in tests]
    (run / "tests.jsonl").write_text("\n".join(lines) + "\n")


def test_metrics_are_those_of_the_checkpoint_that_is_loaded(run: Path) -> None:
    best = PastTest("2026-01-01", "runs/unet/0/checkpoints/best.ckpt", {"data.side": 64}, {"test/mIoU": 0.75}, 7)
    summary = json.loads((run / "test/summary.json").read_text())
    (run / "test/summary.json").write_text(json.dumps(summary | {"checkpoint": "checkpoints/last.ckpt"}))
    record_tests(run, best)
    card = read(run)
    assert "mIoU **0.75** in the test (n = 7)." in card
    assert "The test of 2026-01-01 is of the checkpoint `best.ckpt`." in card
    assert "Options that differ from those of the fit: `data.side: 64`." in card


def test_card_states_that_another_checkpoint_was_tested(run: Path) -> None:
    summary = json.loads((run / "test/summary.json").read_text())
    (run / "test/summary.json").write_text(json.dumps(summary | {"checkpoint": "checkpoints/last.ckpt"}))
    card = read(run)
    assert "is of the checkpoint `last.ckpt`. **It is not the checkpoint below, `checkpoints/best.ckpt`**" in card
