"""Every experiment gives the same result on two ranks as on one."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torchvision.io import write_png

from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import DataError
from tests.conftest import CONFIGS
from tests.contracts.ranks import command, join, plain_command
from tests.fakes.ranks import on_two_ranks
from tests.test_configs import ALL, config_of, family_of, in_lanes, on_shapes, one_per_method, small

EXPERIMENTS = one_per_method(name for name in ALL if on_shapes(name) and "smp" not in name)
UNIT = ("segmentation/unet.yaml",)


_TIMES = ("train/images_per_second", "test/images_per_second")
SIZES = {"train_size": 9, "val_size": 5, "test_size": 3}  # not divisible by two ranks or batches of two


def arguments(name: str) -> list[object]:
    config = config_of(name)
    given = ["--config", CONFIGS / name, *small(config, Path("fake"), family_of(name), "shapes")]
    given += [part for key, value in SIZES.items() for part in (f"--data.{key}", value)]
    if config["model"]["class_path"] == "SemanticSegmentation":  # any network is sufficient
        network = "torchvision.models.segmentation.deeplabv3_mobilenet_v3_large"
        given += ["--model.network", network, "--model.network.num_classes", 6]
    if family_of(name) in ("detection", "segmentation"):
        # The order of nearly tied scores depends on the last bits, which depend on the batch size.
        given += ["--data.eval_batch_size", 1]
    given += ["--trainer.log_every_n_steps", 1, "--trainer.check_val_every_n_epoch", 1, "--experiment", "it"]
    return [*given, "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shared cache folder of trained classifiers."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", in_lanes(EXPERIMENTS, UNIT))
def test_two_ranks_agree(
    darkroom: Callable, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Check that both ranks have equal weights, running statistics and metrics, and the metrics of one process.

    Training noise differs between ranks, every sample is evaluated once, and only rank 0 writes. The sizes of the splits
    are not divisible by the number of ranks. The strategy is plain ddp.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    given = arguments(name)
    fit = ["fit", *given, "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    one, two = on_two_ranks(lambda rank, folder: command(rank, fit), tmp_path)
    for part in ("first", "last"):
        assert one[part].keys() == two[part].keys()
        different = [key for key, value in one[part].items() if not torch.equal(value, two[part][key])]
        assert not different, part
    assert any(not torch.equal(value, one["last"][key]) for key, value in one["first"].items())
    assert not torch.equal(one["noise"], two["noise"])
    assert two["written"] == [] != one["written"]
    for stage in ("fit", "test"):
        assert one["metrics"][stage].keys() == two["metrics"][stage].keys()
        for key in one["metrics"][stage].keys() - set(_TIMES):
            value = one["metrics"][stage][key]
            torch.testing.assert_close(value, two["metrics"][stage][key], rtol=0, atol=0, equal_nan=True, msg=key)
    for split, count in {"val": 5, "test": 3}.items():
        seen = one["seen"][split] + two["seen"][split]
        assert len(set(seen)) == count
    assert len(one["seen"]["test"]) == 2

    torch.set_num_threads(1)  # as on the ranks
    outcome = darkroom("test", *given, "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    with Path("runs/it/0/metrics.csv").open(newline="") as file:
        alone = list(csv.DictReader(file))[-1]
    for key, value in one["metrics"]["test"].items():
        if key not in _TIMES:
            assert float(value) == pytest.approx(float(alone[key]), rel=1e-4, nan_ok=True), key


def photos(folder: Path, count: int) -> tuple[object, ...]:
    folder.mkdir()
    for index in range(count):
        write_png(torch.randint(256, (3, 60 + 4 * index, 70), dtype=torch.uint8), str(folder / f"{index}.png"))
    return "--data.predict", folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "images", "summaries"),
    [
        ("segmentation/unet.yaml", 1, 2, {"areas.csv"}),
        ("detection/ssd.yaml", 3, 3, {"detections.json", "results.json"}),
        ("autoencoding/vae.yaml", 1, 2, {"samples.csv"}),  # including grid.png
    ],
)
def test_every_image_is_predicted_once(
    darkroom: Callable, tmp_path: Path, name: str, count: int, images: int, summaries: set[str]
) -> None:
    """Check also fewer images than ranks."""
    given = arguments(name)
    assert darkroom("fit", *given, "--trainer.limit_val_batches", 0).code == 0
    asked = ("--data", "Prompts", "--data.count", count) if "vae" in name else photos(tmp_path / "photos", count)
    predict = ["predict", "--config", "runs/it/0/config.yaml", "--experiment", "it", "--ckpt_path", "last", *asked]
    outcome = darkroom(*predict, "--trainer.devices", 1)
    assert outcome.code == 0, outcome.err
    alone = Path("runs/it/0/predictions").rename("alone")
    one, two = on_two_ranks(
        lambda rank, _: plain_command(rank, [*predict, "--trainer.devices", 2, "--trainer.strategy", "ddp"]), tmp_path
    )
    together = Path("runs/it/0/predictions")
    assert _contents(together) == _contents(alone)
    assert summaries <= set(_contents(together))
    assert sum(path.endswith(".png") for path in one + two) == images
    assert bool([path for path in two if path.endswith(".png")]) == (count > 1)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_split_smaller_than_number_of_ranks_raises(tmp_path: Path) -> None:
    def refused(rank: int, folder: Path) -> str:
        join(rank)
        data = ShapesSegmentation(val_size=1, num_workers=0, side=32)
        data.trainer = Trainer(devices=2, strategy="ddp", accelerator="cpu", logger=False, default_root_dir=folder)
        with pytest.raises(DataError) as error:
            data.setup("validate")
        return str(error.value)

    one, two = on_two_ranks(refused, tmp_path)
    assert one == two
    assert "the val split of ShapesSegmentation has 1 samples for 2 ranks" in one


@pytest.mark.slow
def test_command_starts_second_rank(darkroom: Callable, tiny: list[str]) -> None:
    """Compare the run folder, metrics and checkpoints with those of one process."""
    assert darkroom("fit", *tiny).code == 0
    Path("runs").rename("alone")
    ddp = ("--config", str(CONFIGS / "trainer/ddp.yaml"), "--trainer.devices", "2", "--trainer.accelerator", "cpu")
    command = [sys.executable, "-m", "darkroom", "fit", *tiny, "--data.batch_size", "2", *ddp]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path.cwd())
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("run folder: runs/tiny/0") == 1
    found, alone = ({str(path.relative_to(root)) for path in root.rglob("*")} for root in (Path("runs"), Path("alone")))
    assert found == alone
    assert {"tiny/0/metrics.csv", "tiny/0/checkpoints/last.ckpt", "tiny/0/checkpoints/best.ckpt"} <= found
    one, two = (list(csv.DictReader(Path(root, "tiny/0/metrics.csv").open(newline=""))) for root in ("alone", "runs"))
    assert [(row["step"], row["epoch"]) for row in one] == [(row["step"], row["epoch"]) for row in two]
    saved = [torch.load(Path(root, "tiny/0/checkpoints/last.ckpt"), weights_only=True) for root in ("alone", "runs")]
    assert saved[0]["global_step"] == saved[1]["global_step"] == 2
    assert saved[0]["state_dict"].keys() == saved[1]["state_dict"].keys()
