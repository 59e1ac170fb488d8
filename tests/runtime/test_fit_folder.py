"""Commands in another folder find the files that the fit named by relative paths."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from darkroom.runtime.fit_folder import resolved_options
from tests.conftest import CONFIGS
from tests.fakes.pictures import image_mask_folder


def fit_of_folder(*options: object) -> list[object]:
    return [
        *("fit", "--config", CONFIGS / "segmentation/unet.yaml", "--experiment", "it", "--model.base_channels", 4),
        *("--data", "ImageMaskFolder", "--data.root", "pictures", "--data.crop", 32, "--data.val_fraction", 0.3),
        *("--data.batch_size", 2, "--data.eval_batch_size", 1, "--data.num_workers", 0, "--trainer.max_steps", 1),
        *("--trainer.accelerator", "cpu", "--trainer.callbacks", "null", *options),
    ]


@pytest.mark.parametrize(
    "runs", ["runs", *(pytest.param(runs, marks=pytest.mark.slow) for runs in ("nested/runs", "absolute"))]
)
@pytest.mark.slow
def test_validate_from_another_folder_finds_data(darkroom: Callable, tmp_path: Path, runs: str) -> None:
    image_mask_folder(tmp_path / "pictures")
    runs = str(tmp_path / "far/runs") if runs == "absolute" else runs
    assert darkroom(*fit_of_folder("--runs_dir", runs)).code == 0
    checkpoint = os.path.relpath(tmp_path / runs / "it/0/checkpoints/last.ckpt", tmp_path / "elsewhere")
    Path("elsewhere/pictures").mkdir(parents=True)  # another folder of the same name
    os.chdir("elsewhere")
    outcome = darkroom("validate", "--ckpt_path", checkpoint)
    assert outcome.code == 0, outcome.err
    assert "val/mIoU" in outcome.out
    config = Path(checkpoint).parents[1] / "config.yaml"
    assert darkroom("validate", "--config", config, "--ckpt_path", checkpoint).code == 0
    outcome = darkroom("validate", "--ckpt_path", checkpoint, "--data.root", "pictures")
    assert "pictures/images does not exist" in outcome.message  # the command line takes precedence


def run_config(content: dict) -> Path:
    path = Path("project/runs/it/0/config.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"runs_dir": "runs", "experiment": "it", **content}))
    return path


def test_every_path_option_is_resolved(tmp_path: Path) -> None:
    arguments = {"root": "photos", "images_dir": "photos", "predict": None, "proposals": {"folder": "cache"}}
    model = {"pretrained": "a.pth", "members": ["a.pth", "a.pth"], "scores": {"init_args": {"cache_dir": "cache"}}}
    path = run_config({"data": {"init_args": arguments}, "model": {"init_args": model}, "trainer": {"root": "photos"}})
    for name in ("photos", "cache"):
        Path("project", name).mkdir()
    Path("project/a.pth").touch()
    words = resolved_options(path)
    a, cache, photos = (str(tmp_path / "project" / name) for name in ("a.pth", "cache", "photos"))
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        "--data.root": photos,
        "--data.proposals.folder": cache,
        "--model.pretrained": a,
        "--model.members": f'["{a}", "{a}"]',
        "--model.scores.cache_dir": cache,
    }


def test_paths_that_do_not_exist_and_other_configs_stay(tmp_path: Path) -> None:
    path = run_config({"data": {"init_args": {"root": "https://host/shards"}}, "model": {"init_args": {"base": "no"}}})
    assert resolved_options(path) == []
    Path("copied.yaml").write_bytes(path.read_bytes())
    Path("https:").mkdir()
    assert resolved_options(Path("copied.yaml")) == []


def test_config_of_a_run_in_the_working_folder_stays() -> None:
    path = run_config({"data": {"init_args": {"root": "photos"}}})
    Path("project/photos").mkdir()
    os.chdir("project")
    assert resolved_options(path.relative_to("project")) == []
