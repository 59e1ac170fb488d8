"""Every YAML trains: found by glob, two steps on a fake of the real layout."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CONFIGS
from tests.fakes.pictures import FAKES

BASE = CONFIGS / "segmentation/unet.yaml"
ALL = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("name", ALL)
def test_trains_two_steps_and_tests(darkroom: Callable, tmp_path: Path, name: str) -> None:
    kind, _, rest = name.partition("/")
    overlay = [] if kind == "segmentation" else ["--config", CONFIGS / name]
    small = [
        "--model.base_channels",
        4,
        "--data.batch_size",
        2,
        "--data.num_workers",
        0,
        "--trainer.accelerator",
        "cpu",
    ]
    if kind == "data":
        FAKES[Path(rest).stem](tmp_path / "fake")
        small += ["--data.root", tmp_path / "fake", "--data.crop", 32]
    else:
        small += ["--data.train_size", 4, "--data.val_size", 4, "--data.test_size", 4, "--data.side", 32]
    steps = ["--trainer.max_steps", 2, "--trainer.check_val_every_n_epoch", 1, "--experiment", "it"]
    base = ["--config", BASE if overlay else CONFIGS / name, *overlay, *small, *steps]
    assert darkroom("fit", *base).code == 0
    assert Path("runs/it/0/checkpoints/last.ckpt").is_file()
    outcome = darkroom("test", *base, "--ckpt_path", "last")
    assert outcome.code == 0
    assert "test/mIoU" in outcome.out


@pytest.mark.parametrize("name", ALL)
def test_opens_with_its_promise(name: str) -> None:
    assert (CONFIGS / name).read_text().startswith("# ")
