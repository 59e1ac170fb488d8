"""Installed Darkroom in a user's project with folders of the same names as its packages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # builds two wheels and starts nine commands

ROOT = Path(__file__).parents[1]
FOLDERS = ("darkroom", "lightning_modules", "datamodules", "callbacks", "configs")

USERS = {
    "callbacks/mine.py": """
from lightning import Callback

class SayHello(Callback):
    def on_fit_start(self, trainer, pl_module):
        print("hello from", type(trainer.datamodule).__name__, type(pl_module).__name__)
""",
    "datamodules/mine.py": """
from darkroom.datamodules.shapes import ShapesSegmentation

class MyShapes(ShapesSegmentation):
    '''Shapes of my own.'''
""",
    "lightning_modules/mine.py": """
from darkroom.lightning_modules.segmentation import UNet

class MyUNet(UNet):
    '''A U-Net of my own.'''
""",
    "configs/mine.yaml": """
model: {class_path: MyUNet, init_args: {base_channels: 4}}
data:
  class_path: MyShapes
  init_args: {train_size: 8, val_size: 4, test_size: 4, batch_size: 4, side: 32, num_workers: 0}
trainer: {max_epochs: 1, num_sanity_val_steps: 0, enable_progress_bar: false, accelerator: cpu,
  callbacks: [{class_path: SayHello}]}
""",
    "train.py": """
from callbacks.mine import SayHello
from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.datamodules.shapes import ShapesSegmentation
from datamodules.mine import MyShapes
from lightning_modules.mine import MyUNet

print(issubclass(MyShapes, ShapesSegmentation), SayHello.__module__, ExactResume.__module__)
""",
}

PLUGIN = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "darkroom-tiny-plugin"
version = "1"
[project.entry-points."darkroom.datamodules"]
PluginShapes = "tiny_plugin:PluginShapes"
[project.entry-points."darkroom.callbacks"]
PluginCallback = "tiny_plugin:PluginCallback"
[project.entry-points."darkroom.modules"]
PluginUNet = "tiny_plugin:PluginUNet"
[tool.setuptools]
py-modules = ["tiny_plugin"]
""",
    "tiny_plugin.py": """
from darkroom.datamodules.shapes import ShapesSegmentation
from darkroom.lightning_modules.segmentation import UNet
from lightning import Callback

class PluginShapes(ShapesSegmentation):
    '''Shapes of a plugin.'''

class PluginUNet(UNet):
    '''A U-Net of a plugin.'''

class PluginCallback(Callback):
    def on_fit_start(self, trainer, pl_module):
        print("plugin:", type(trainer.datamodule).__name__, type(pl_module).__name__)
""",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the unpacked wheels of Darkroom and of the plugin."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"  # setuptools builds in the folder of its sources
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("install", "--target", folder / "site", source, write(folder / "plugin", PLUGIN))
    pages = {path.name for path in (ROOT / "darkroom/play/static").iterdir()}
    assert {path.name for path in (folder / "site/darkroom/play/static").iterdir()} == pages
    return folder / "site"


@pytest.fixture(params=["wheel", "editable"])
def python(request: pytest.FixtureRequest, tmp_path: Path) -> "Python":
    """Run Python in a user's folder, with Darkroom from the wheel or from the editable installation."""
    write(tmp_path, USERS)
    path = str(request.getfixturevalue("site")) if request.param == "wheel" else ""
    return Python(tmp_path, path)


class Python:
    def __init__(self, folder: Path, path: str) -> None:
        self.folder, self.path = folder, path

    def __call__(self, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": self.path, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return run.stdout


def test_only_darkroom_is_installed(site: Path) -> None:
    names = {path.name for path in site.iterdir() if not path.name.endswith((".dist-info", "__pycache__"))}
    assert names == {"darkroom", "tiny_plugin.py", "bin"}
    assert (site / "darkroom/configs/segmentation/unet.yaml").is_file()
    assert (site / "darkroom/py.typed").is_file()


def test_list_works_without_dependencies(site: Path, tmp_path: Path) -> None:
    code = "from darkroom.__main__ import main; main(['list'])"
    environment = {"PYTHONPATH": str(site)}
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    for name in ("test mIoU 0.9", "ShapesSegmentation", "PluginShapes"):
        assert name in run.stdout


def test_user_classes_are_found_by_bare_name(python: Python) -> None:
    assert "hello from MyShapes MyUNet" in python("-m", "darkroom", "fit", "--config", "configs/mine.yaml")


def test_user_classes_are_found_by_class_path(python: Python) -> None:
    config = (python.folder / "configs/mine.yaml").read_text()
    for name, path in (("MyUNet", "lightning_modules"), ("MyShapes", "datamodules"), ("SayHello", "callbacks")):
        config = config.replace(f"class_path: {name}", f"class_path: {path}.mine.{name}")
    (python.folder / "configs/mine.yaml").write_text(config)
    assert "hello from MyShapes MyUNet" in python("-m", "darkroom", "fit", "--config", "configs/mine.yaml")


def test_shipped_config_accepts_user_callback(python: Python) -> None:
    sizes = ("--data.train_size", "8", "--data.val_size", "4", "--data.side", "32", "--model.base_channels", "4")
    fit = ("-m", "darkroom", "fit", "--config", "configs/segmentation/unet.yaml", "--trainer.max_epochs", "1")
    assert "hello from ShapesSegmentation UNet" in python(*fit, *sizes, "--trainer.callbacks+=SayHello")


def test_user_script_imports_own_and_shipped_callbacks(python: Python) -> None:
    assert python("train.py").split() == ["True", "callbacks.mine", "darkroom.callbacks.training.exact_resume"]


def test_classes_of_entry_points_are_found(site: Path, tmp_path: Path) -> None:
    python = Python(write(tmp_path, USERS), str(site))
    config = (tmp_path / "configs/mine.yaml").read_text()
    for mine, theirs in (("MyUNet", "PluginUNet"), ("MyShapes", "PluginShapes"), ("SayHello", "PluginCallback")):
        config = config.replace(mine, theirs)
    (tmp_path / "plugin.yaml").write_text(config)
    assert "plugin: PluginShapes PluginUNet" in python("-m", "darkroom", "fit", "--config", "plugin.yaml")
