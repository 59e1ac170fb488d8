"""Private names of Lightning: each exists in the installed version, and only lightning_compat.py uses them."""

import re
from pathlib import Path

import pytest
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import WandbLogger

import darkroom.runtime
from darkroom.runtime.lightning_compat import PRIVATE

ROOT = Path(darkroom.runtime.__file__).parents[2]


@pytest.fixture
def instances(tmp_path: Path) -> dict[str, object]:
    """Return an object of each class in PRIVATE by class name; many names are set in constructors."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    parts = [
        trainer,
        trainer.fit_loop,
        trainer.fit_loop.epoch_loop,
        trainer.fit_loop.epoch_loop.val_loop,
        trainer._checkpoint_connector,
        trainer._logger_connector,
        trainer._signal_connector,
        LightningModule(),
        ModelCheckpoint(),
        WandbLogger(offline=True, save_dir=tmp_path),
    ]
    return {type(part).__name__: part for part in parts} | {"LightningCLI": LightningCLI}


def test_private_lightning_names_exist(instances: dict[str, object]) -> None:
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in PRIVATE.items()
        for name in names
        if name not in dir(instances[kind.__name__])  # reading a property may need a running fit
    ]
    assert not missing


def test_private_lightning_names_are_used_in_one_file() -> None:
    private = "|".join(name for names in PRIVATE.values() for name in names if name.startswith("_"))
    pattern = re.compile(rf"\.({private})\b|lightning\S* import _|import _is_max_limit_reached")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in ("darkroom", "callbacks/training")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != "lightning_compat.py"
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found
