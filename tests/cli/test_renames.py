"""Names of the previous version: accepted in configs, on the command line and in checkpoints, with one warning each."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from darkroom import renames
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.segmentation import UNet
from darkroom.paths import find_config
from tests.conftest import CONFIGS


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renames, "_warned", set())


def test_old_class_path_leads_to_todays_module() -> None:
    with pytest.warns(FutureWarning, match="is now darkroom.lightning_modules.lr_schedulers.WarmupCosine"):
        path = renames.rename_class("lightning_modules.base.WarmupCosine")
    assert path == f"{WarmupCosine.__module__}.WarmupCosine"


def test_old_name_warns_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            renames.rename_class("lightning_modules.segmentation.UNet")
    assert len(caught) == 1


def test_users_own_folder_of_that_name_wins(tmp_path: Path) -> None:
    Path("lightning_modules").mkdir()
    Path("lightning_modules/base.py").write_text("class WarmupCosine: ...\n")
    assert renames.rename_class("lightning_modules.base.WarmupCosine") == "lightning_modules.base.WarmupCosine"
    assert renames.rename_class("lightning_modules.other.UNet").startswith("darkroom.")


def test_unknown_paths_stay_as_they_are() -> None:
    for path in ("torch.optim.SGD", "callbacks.mine.MyLogger", "UNet", "a sentence. UNet"):
        assert renames.rename_class(path) == path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"width": 3}, {"width": 3}),
        ({"old": 3}, {"group": {"name": 3}}),
        ({"old": 3, "group": {"other": 4}}, {"group": {"name": 3, "other": 4}}),
        ({"group": {"name": 5}, "old": 3}, {"group": {"name": 5}}),
        ({"former": 3}, {"present": 3}),
    ],
)
def test_old_keys_move_into_their_group(old: dict, new: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renames.KEYS, "model", {"old": "group.name", "former": "present"})
    assert renames.update_config({"model": {"init_args": old}}) == {"model": {"init_args": new}}
    assert renames.update_config({"model": dict(old)}) == {"model": new}


def test_old_keys_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renames.KEYS, "model", {"old": "group.name"})
    argv = ["fit", "--model.old=3", "--model.init_args.old", "4", "--model.old.init_args.x", "--model.older", "5"]
    renamed = ["fit", "--model.group.name=3", "--model.init_args.group.name", "4"]
    assert renames.update_arguments(argv) == [*renamed, "--model.group.name.init_args.x", "--model.older", "5"]


@pytest.mark.parametrize(
    ("old", "new"), [("paper/unet", "paper/segmentation/unet"), ("data/mnist", "data/images/mnist")]
)
def test_old_paths_of_configs_are_found(old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=f"is now configs/{new}.yaml"):
        assert find_config(Path(f"configs/{old}.yaml")) == CONFIGS / f"{new}.yaml"
    assert find_config(Path("configs/paper/no.yaml")) == Path("configs/paper/no.yaml")


def test_every_renamed_class_exists() -> None:
    assert set(renames.CLASSES.values()) <= renames.class_modules().keys()


def test_old_config_fits_and_old_checkpoint_loads(darkroom: Callable, tiny: list[str]) -> None:
    config = yaml.safe_load((CONFIGS / "segmentation/unet.yaml").read_text())
    config["model"]["class_path"] = "lightning_modules.segmentation.UNet"
    config["model"]["init_args"]["lr_scheduler"] = {"class_path": "lightning_modules.base.WarmupCosine"}
    config["data"]["class_path"] = "datamodules.shapes.ShapesSegmentation"
    Path("old.yaml").write_text(yaml.safe_dump(config))
    outcome = darkroom("fit", *tiny, "--config", "old.yaml")
    assert outcome.code == 0, outcome.err
    path = Path("runs/tiny/0/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["_class_path"].startswith("darkroom.")
    checkpoint["hyper_parameters"]["_class_path"] = "lightning_modules.segmentation.unet.UNet"
    checkpoint["hyper_parameters"]["lr_scheduler"] = {"class_path": "lightning_modules.base.WarmupCosine"}
    del checkpoint["hyper_parameters"]["optim"]
    torch.save(checkpoint, path)
    assert isinstance(UNet.load_from_checkpoint(path), UNet)
    assert darkroom("test", "--ckpt_path", path).code == 0
