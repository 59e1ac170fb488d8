"""Names of the previous version: accepted in configs, on the command line and in checkpoints, with one warning each."""

import ast
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from darkroom import renames
from darkroom.cli.options.data_options import keep_data_section
from darkroom.lightning_modules.detection import FasterRCNN
from darkroom.lightning_modules.diffusion import DDPM, DenoisingUNet
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.segmentation import UNet
from darkroom.paths import find_config
from tests.conftest import CONFIGS


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renames, "_warned", set())


def test_old_class_path_maps_to_current_module() -> None:
    with pytest.warns(FutureWarning, match="is now darkroom.lightning_modules.lr_schedulers.WarmupCosine"):
        path = renames.rename_class("lightning_modules.base.WarmupCosine")
    assert path == f"{WarmupCosine.__module__}.WarmupCosine"


@pytest.mark.parametrize(
    ("old", "new"), [("diffusion.denoiser.Denoiser", DenoisingUNet), ("diffusion.text.words.Words", LearnedTextEncoder)]
)
def test_renamed_diffusion_classes_are_found(old: str, new: type) -> None:
    path = f"{new.__module__}.{new.__name__}"
    with pytest.warns(FutureWarning, match=f"is now {path}"):
        assert renames.rename_class(f"lightning_modules.{old}") == path
    config = {"model": {"init_args": {"network": {"class_path": old.rpartition(".")[2]}}}}
    renamed = renames.update_config(config)["model"]["init_args"]["network"]
    assert renamed == {"class_path": new.__name__}


def test_old_name_warns_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            renames.rename_class("lightning_modules.segmentation.UNet")
    assert len(caught) == 1


def test_local_folder_of_same_name_takes_precedence(tmp_path: Path) -> None:
    Path("lightning_modules").mkdir()
    Path("lightning_modules/base.py").write_text("class WarmupCosine: ...\n")
    assert renames.rename_class("lightning_modules.base.WarmupCosine") == "lightning_modules.base.WarmupCosine"
    assert renames.rename_class("lightning_modules.other.UNet").startswith("darkroom.")


def test_unknown_paths_are_unchanged() -> None:
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


def test_old_keys_are_renamed_on_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renames.KEYS, "model", {"old": "group.name"})
    argv = ["fit", "--model.old=3", "--model.init_args.old", "4", "--model.old.init_args.x", "--model.older", "5"]
    renamed = ["fit", "--model.group.name=3", "--model.init_args.group.name", "4"]
    assert renames.update_arguments(argv) == [*renamed, "--model.group.name.init_args.x", "--model.older", "5"]


@pytest.mark.parametrize(
    ("old", "new"), [("paper/unet", "paper/segmentation/unet"), ("data/mnist", "data/images/mnist")]
)
def test_old_config_paths_are_found(old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=f"is now configs/{new}.yaml"):
        assert find_config(Path(f"configs/{old}.yaml")) == CONFIGS / f"{new}.yaml"
    assert find_config(Path("configs/paper/no.yaml")) == Path("configs/paper/no.yaml")


class Blur(nn.Module):
    """Tiny denoising network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv(x)


FLAT = {
    "image_shape": [3, 8, 8],
    "bpd_samples": 0,
    "sampler": "heun",
    "steps": 7,
    "guidance": 1.0,
    "guidance_interval": [0.2, 0.8],
    "percentile": 0.9,
    "prediction": "v",
    "learned_variance": True,
    "channels_last": True,
    "compile_network": False,
}
GROUPED = {
    "image_shape": [3, 8, 8],
    "bpd_samples": 0,
    "sampling": {"sampler": "heun", "steps": 7, "guidance": 1.0, "guidance_interval": [0.2, 0.8], "percentile": 0.9},
    "objective": {"prediction": "v", "learned_variance": True},
    "optim": {"channels_last": True, "compile": False},
}


@pytest.mark.parametrize(
    ("flat", "grouped"),
    [
        (FLAT | {"ema_decay": 0.5}, GROUPED | {"ema": {"decay": 0.5}}),
        (FLAT | {"ema_decay": None}, GROUPED | {"ema": None}),
    ],
)
def test_flat_ddpm_config_equals_grouped_one(flat: dict, grouped: dict, tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="model.steps is now model.sampling.steps"):
        config = renames.update_config({"model": {"class_path": "lightning_modules.diffusion.DDPM", "init_args": flat}})
    path = f"{DDPM.__module__}.DDPM"
    assert config == {"model": {"class_path": path, "init_args": grouped}}
    model = DDPM(network=Blur(), **grouped)
    file = tmp_path / "old.ckpt"
    content = {"state_dict": model.state_dict(), "hyper_parameters": flat, "pytorch-lightning_version": "2.6.5"}
    torch.save(content, file)
    loaded = DDPM.load_from_checkpoint(file, network=Blur(), weights_only=True)
    assert (loaded.ema is None) == (model.ema is None)
    assert (loaded.sampling, loaded.optim) == (model.sampling, model.optim)
    assert loaded.parameterization == model.parameterization
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("value", [None, [3.0, 1.0]])
def test_per_stage_lists_of_cascade_are_unchanged(value: list[float] | None) -> None:
    config = {"model": {"class_path": "ImagenCascade", "init_args": {"guidance": value, "steps": value}}}
    assert renames.update_config(config) == config
    text = "null" if value is None else "[3, 1]"
    argv = ["test", f"--model.guidance={text}", "--model.init_args.steps", text]
    assert renames.update_arguments(argv) == argv


def test_flat_null_on_command_line_disables_group() -> None:
    argv = ["fit", "--model.ema_decay=null", "--model.ema_decay", "null", "--model.ema_decay", "0.9"]
    renamed = ["fit", "--model.ema=null", "--model.ema", "null", "--model.ema.decay", "0.9"]
    assert renames.update_arguments(argv) == renamed
    argv = ["fit", "--model.guidance", "3", "--model.steps=5"]
    assert renames.update_arguments(argv) == ["fit", "--model.sampling.guidance", "3", "--model.sampling.steps=5"]


OLD_FASTER_RCNN = {
    "anchor_sizes": [24, 40],
    "aspect_ratios": [0.5, 1.0],
    "rpn_samples": 64,
    "proposals_before_nms": [200, 100],
    "proposals": [100, 50],
    "rpn_nms_threshold": 0.6,
    "score_threshold": 0.1,
    "max_detections": 30,
}
FASTER_RCNN = {
    "rpn": {
        "anchor_sizes": [24, 40],
        "aspect_ratios": [0.5, 1.0],
        "samples": 64,
        "proposals_before_nms": [200, 100],
        "proposals": [100, 50],
        "nms_threshold": 0.6,
    },
    "inference": {"score_threshold": 0.1, "max_detections": 30},
}


def test_old_flat_faster_rcnn_config_builds_same_model(darkroom: Callable) -> None:
    config = yaml.safe_load((CONFIGS / "detection/faster_rcnn.yaml").read_text())
    for name, arguments in (("old", OLD_FASTER_RCNN), ("new", FASTER_RCNN)):
        shared = {key: value for key, value in config["model"]["init_args"].items() if key not in FASTER_RCNN}
        model = {"class_path": "FasterRCNN", "init_args": shared | arguments}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config | {"model": model}))
    old, new = (darkroom("fit", "--config", f"{name}.yaml", "--print_config") for name in ("old", "new"))
    assert old.code == new.code == 0, old.err
    assert yaml.safe_load(old.out)["model"] == yaml.safe_load(new.out)["model"]
    arguments = yaml.safe_load(new.out)["model"]["init_args"]
    model = FasterRCNN(5, backbone="vgg11_bn", width=0.125, rpn=arguments["rpn"], inference=arguments["inference"])
    assert model.network.rpn.nms_thresh == 0.6
    assert model.network.rpn.fg_bg_sampler.batch_size_per_image == 64
    assert model.network.rpn.post_nms_top_n() == 100
    heads = model.network.roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.1, 0.5, 30)


def test_shared_keys_are_renamed_only_for_their_class() -> None:
    old = {"aspect_ratios": [1.0], "proposals": 50}
    for class_path in ("SlidingWindow", "darkroom.lightning_modules.segmentation.DeconvNet"):
        assert renames.rename_keys("model", dict(old), class_path) == old
    mask_rcnn = renames.rename_keys("model", {"proposals": [20, 10]}, "lightning_modules.detection.MaskRCNN")
    assert mask_rcnn == {"rpn": {"proposals": [20, 10]}}


def test_flag_becomes_enabled_of_its_group() -> None:
    old = {"svm": False, "cost": 0.1, "box_regression": True}
    new = {"svm": {"enabled": False, "cost": 0.1}, "box_regression": {"enabled": True}}
    assert renames.rename_keys("model", old) == new
    assert renames.rename_keys("model", new) == new
    argv = ["--model.svm=false", "--model.svm.cost", "0.1"]
    assert renames.update_arguments(argv) == ["--model.svm.enabled=false", "--model.svm.cost", "0.1"]


def test_null_of_group_named_as_old_flag_is_unchanged() -> None:
    assert renames.rename_keys("model", {"svm": None, "box_regression": None}) == {"svm": None, "box_regression": None}
    assert renames.update_arguments(["--model.svm", "null"]) == ["--model.svm", "null"]


def test_custom_class_keeps_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text("class Mine:\n    def __init__(self, steps, **kwargs): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    flat = {"steps": 3, "optimizer": "SGD"}
    model = {"class_path": "mine.Mine", "init_args": dict(flat)}
    assert renames.update_config({"model": model})["model"]["init_args"] == {"steps": 3, "optim": {"optimizer": "SGD"}}
    argv = ["fit", "--model.steps", "3", "--model.optimizer=SGD"]
    assert renames.update_arguments(argv, {"model": "mine.Mine"}) == [*argv[:3], "--model.optim.optimizer=SGD"]
    assert renames.update_arguments([*argv, "--model=mine.Mine"])[:3] == argv[:3]


def test_values_of_other_options_are_unchanged() -> None:
    argv = ["fit", "--experiment", "Words", "--model.text", "Words"]
    assert renames.update_arguments(argv) == [*argv[:-1], "LearnedTextEncoder"]


def test_old_arguments_of_callbacks_and_data_are_renamed() -> None:
    callback = {"class_path": "callbacks.TimestepLossLogger", "init_args": {"num_pictures": 3}}
    (updated,) = renames.update_config({"trainer": {"callbacks": [callback]}})["trainer"]["callbacks"]
    assert updated["init_args"] == {"num_images": 3}
    data = renames.update_config({"data": {"class_path": "CaptionFolder", "init_args": {"picture_column": "file"}}})
    assert data["data"]["init_args"] == {"image_column": "file"}


def test_every_renamed_class_exists() -> None:
    assert set(renames.CLASSES.values()) | set(renames.KEYS_OF_CLASS) <= renames.class_modules().keys()


def test_class_modules_are_those_of_the_syntax_tree() -> None:
    for name, module in renames.class_modules().items():
        package, *rest = module.split(".")[1:]
        path = renames.folder_of(package).joinpath(*rest)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}, name


@pytest.mark.slow
def test_old_config_trains_and_old_checkpoint_loads(darkroom: Callable, tiny: list[str]) -> None:
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


def test_data_section_of_an_old_config_has_todays_names(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("data: {class_path: ShapesImages, init_args: {predict_dir: photos}}")
    with pytest.warns(FutureWarning, match="data.predict_dir is now data.predict"):
        _, section = keep_data_section(["--config", str(config)])
    assert json.loads(section)["data"]["init_args"] == {"predict": "photos"}
