"""Figures and files of generative methods: reconstructions, samples, latent spaces, predictions."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from darkroom.callbacks.loggers.latent_space_logger import LatentSpaceLogger
from darkroom.callbacks.loggers.reconstruction_logger import ReconstructionLogger
from darkroom.callbacks.loggers.sample_logger import SampleLogger
from darkroom.callbacks.plotting.grids import TITLE
from darkroom.callbacks.writers.sample_writer import SampleWriter
from darkroom.datamodules.captions.prompts import Prompts
from darkroom.errors import UsageError
from tests.callbacks.blobs import BlobData, BlobModel, blobs, trainer
from tests.runtime.test_wandb import read

VIEWS = ("interpolations", "latents", "manifold", "traversals")


def read_figures(what: str) -> list[Tensor]:
    """Read the figures of a folder, sorted by step."""
    files = sorted(Path("figures", what).glob("*.png"))
    return [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]


def folders() -> list[str]:
    return sorted(path.name for path in Path("figures").glob("*"))


# --- reconstructions --------------------------------------------------------------------------------------------------


def test_reconstruction_figure_shows_input_output_and_difference() -> None:
    data, model = BlobData((1, 20, 40)), BlobModel((1, 20, 40))
    trainer(ReconstructionLogger(6)).validate(model, data, verbose=False)
    (sheet,) = read_figures("val_reconstructions")
    assert model.reconstructed == 1  # two batches in one call: DCGAN's search takes as long for one image as for a few
    rows = [sheet[:, 4 + 44 * row : 44 + 44 * row].int() for row in range(3)]
    for index in range(6):
        truth = data.dataset("val")[index]["image"].expand(3, -1, -1)
        left = sheet.shape[2] - 4 - (6 - index) * 84
        shown = [row[:, ::2, left : left + 80 : 2] for row in rows]  # twice as large
        assert torch.equal(shown[0], truth.int())
        assert torch.equal(shown[2], (shown[0] - shown[1]).abs())


def test_reconstructions_show_same_images_every_validation() -> None:
    fit = trainer(ReconstructionLogger(4), max_epochs=2)
    fit.fit(BlobModel(num_classes=3), data := BlobData())
    first, second = read_figures("val_reconstructions")
    assert torch.equal(first[:, :45], second[:, :45])
    assert not torch.equal(first, second)
    trainer(ReconstructionLogger(4)).test(BlobModel(num_classes=3), data, verbose=False)
    assert len(read_figures("test_reconstructions")) == 1


# --- samples ----------------------------------------------------------------------------------------------------------


def test_samples_use_fixed_noise_and_keep_global_rng() -> None:
    model, state = BlobModel((3, 32, 32)), torch.get_rng_state()
    for _ in range(2):
        trainer(SampleLogger(9), max_epochs=2, limit_train_batches=0).validate(
            model, BlobData((3, 32, 32)), verbose=False
        )
    assert torch.equal(torch.get_rng_state(), state)
    (sheet,) = read_figures("val_samples")
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    for index, image in enumerate(model.to_uint8(blobs(z, (3, 32, 32)))):
        y, x = 10 + TITLE + 66 * (index // 3), 10 + 66 * (index % 3)
        assert torch.equal(sheet[:, y : y + 64 : 2, x : x + 64 : 2], image)


def test_samples_depend_on_seed() -> None:
    sheets = []
    for seed in (1, 2):
        trainer(SampleLogger(4, seed=seed)).test(BlobModel(), BlobData(), verbose=False)
        sheets += read_figures("test_samples")
    assert not torch.equal(*sheets)


def test_each_class_is_a_row() -> None:
    model = BlobModel(num_classes=3)
    trainer(SampleLogger(13)).validate(model, BlobData(), verbose=False)
    (labels,) = model.sampled_labels
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    (sheet,) = read_figures("val_samples")
    assert sheet.shape[1] == 2 * 10 + TITLE + 3 * 40 + 2 * 2  # three rows


def test_resumed_fit_animates_all_samples() -> None:
    model, data = BlobModel(), BlobData()
    first = trainer(SampleLogger(4), max_epochs=2)
    first.fit(model, data)
    assert Image.open("figures/samples/progress.gif").n_frames == 2
    first.save_checkpoint("half.ckpt")
    trainer(SampleLogger(4), max_epochs=3).fit(model, data, ckpt_path="half.ckpt")
    assert [path.stem for path in sorted(Path("figures/samples").glob("*.png"))] == ["0000001", "0000003", "0000005"]
    assert Image.open("figures/samples/progress.gif").n_frames == 3


def test_animation_needs_two_figures_and_can_be_disabled() -> None:
    trainer(SampleLogger(4), max_epochs=1).fit(BlobModel(), BlobData())
    trainer(SampleLogger(4, animation=False), max_epochs=2).fit(BlobModel(), BlobData())
    assert not Path("figures/samples/progress.gif").exists()


def test_figures_skip_sanity_check_and_follow_every_n_validations() -> None:
    callbacks = (SampleLogger(4, every_n_validations=2), LatentSpaceLogger(every_n_validations=2, grid=3))
    trainer(*callbacks, max_epochs=3, num_sanity_val_steps=1).fit(BlobModel(), BlobData())
    assert [path.stem for path in sorted(Path("figures/samples").glob("*.png"))] == ["0000001", "0000005"]
    assert len(read_figures("latents")) == 2


@pytest.mark.slow
def test_wandb_logs_images_and_animation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(save_dir=".", project="x")
    trainer(SampleLogger(4), max_epochs=2, logger=logger).fit(BlobModel(), BlobData())
    import wandb

    wandb.finish()
    wandb.teardown()  # its own process may still be writing
    (folder,) = Path("wandb").glob("offline-run-*")
    _, history, _, _ = read(next(folder.glob("*.wandb")))
    assert history["samples.count"] == 1
    (video,) = history["samples_progress.videos"]
    with Image.open(folder / "files" / video["path"]) as gif:
        assert gif.n_frames == 2


# --- latent spaces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "latent_dim", "num_classes", "labelled"),
    [
        ((1, 20, 28), 2, None, True),
        pytest.param((3, 32, 32), 6, None, False, marks=pytest.mark.slow),
        pytest.param((1, 16, 16), 5, 3, True, marks=pytest.mark.slow),
        pytest.param((1, 16, 16), 1, None, True, marks=pytest.mark.slow),
    ],
)
def test_fit_writes_four_latent_views(
    shape: tuple[int, int, int], latent_dim: int, num_classes: int | None, labelled: bool
) -> None:
    model = BlobModel(shape, latent_dim, num_classes)
    trainer(LatentSpaceLogger(grid=4), max_epochs=1).fit(model, BlobData(shape, labelled))
    assert folders() == sorted(VIEWS)
    trainer(LatentSpaceLogger(grid=4)).test(model, BlobData(shape, labelled), verbose=False)
    assert folders() == sorted([*VIEWS, *(f"test_{view}" for view in VIEWS)])


def test_manifold_axes_point_right_and_up() -> None:
    trainer(LatentSpaceLogger(grid=3)).validate(BlobModel((1, 49, 49)), BlobData((1, 49, 49)), verbose=False)
    (sheet,) = read_figures("val_manifold")
    left = int((sheet[0, -11] < 255).nonzero()[0])  # right of the axis' values
    grid = sheet[0, -10 - 3 * 49 : -10, left : left + 3 * 49]
    where = [[divmod(int(tile.flatten().argmax()), 49) for tile in row.split(49, 1)] for row in grid.split(49)]
    far = round(48 * 0.967 / 8)  # the quantile of 5 in 6, in pixels
    for row, y in enumerate((24 - far, 24, 24 + far)):
        for column, x in enumerate((24 - far, 24, 24 + far)):
            assert where[row][column] == pytest.approx((y, x), abs=1)


def test_scatter_encodes_at_most_num_points_across_dataset() -> None:
    model = BlobModel()
    trainer(LatentSpaceLogger(num_points=4, num_pairs=1, grid=3)).validate(model, BlobData(), verbose=False)
    assert model.encoded == 4 + 2 + 2  # one of each of four batches, the pair, and the pair again to interpolate


def test_disabled_scatter_encodes_only_pairs() -> None:
    model = BlobModel(latent_dim=20)
    trainer(LatentSpaceLogger(scatter=False, num_pairs=3)).validate(model, BlobData(), verbose=False)
    assert model.encoded == 12
    assert folders() == ["val_interpolations", "val_manifold", "val_traversals"]


def test_scatter_is_off_by_default_for_encode_by_search() -> None:
    class Searching(BlobModel):
        encodes_by_search = True

    model = Searching()
    trainer(LatentSpaceLogger(num_pairs=2, grid=3)).validate(model, BlobData(), verbose=False)
    assert model.encoded == 8
    assert "val_latents" not in folders()
    trainer(LatentSpaceLogger(num_pairs=2, grid=3, scatter=True)).validate(model, BlobData(), verbose=False)
    assert "val_latents" in folders()


def test_conditional_interpolation_pairs_share_a_class() -> None:
    asked = []

    class RecordingModel(BlobModel):
        def interpolate(self, a: Tensor, b: Tensor, steps: int, *, labels: Tensor | None = None) -> Tensor:
            asked.append((a, b, labels))
            return super().interpolate(a, b, steps, labels=labels)

    data = BlobData()
    trainer(LatentSpaceLogger(num_pairs=2)).validate(RecordingModel(num_classes=3), data, verbose=False)
    ((a, b, labels),) = asked
    assert labels.tolist() == [0, 1]
    for index, image in ((0, a[0]), (3, b[0]), (1, a[1]), (4, b[1])):
        assert torch.equal(data._normalize(data.dataset("val")[index]["image"]), image)


def test_diverged_model_does_not_break_figures() -> None:
    model = BlobModel(latent_dim=3)
    model.encode = lambda x, labels=None: torch.full((len(x), 3), torch.nan)
    trainer(LatentSpaceLogger(grid=2)).validate(model, BlobData(), verbose=False)
    assert "val_latents" not in folders()


# --- the writer -------------------------------------------------------------------------------------------------------


def predict(model: BlobModel, data: Any, **kwargs: Any) -> list[dict[str, str]]:
    """Predict and return the rows of samples.csv."""
    trainer(SampleWriter(**kwargs)).predict(model, data, return_predictions=False)
    return list(csv.DictReader(Path("predictions/samples.csv").open()))


def test_predictions_are_named_by_index_and_class() -> None:
    rows = predict(BlobModel(num_classes=3), Prompts(count=5, labels=[2, 0], captions=["a, b"], batch_size=2))
    assert list(rows[0]) == ["index", "seed", "label", "caption", "file"]
    assert [row["file"] for row in rows] == [f"{index:06d}_{(2, 0)[index % 2]}.png" for index in range(5)]
    assert {row["caption"] for row in rows} == {"a, b"}
    z = torch.randn(1, 2, generator=torch.Generator().manual_seed(int(rows[3]["seed"])))
    with Image.open("predictions/000003_0.png") as image:
        assert image.mode == "L"
        expected = BlobModel().to_uint8(blobs(z, (1, 20, 28), torch.tensor([0])))[0, 0]
        assert np.array_equal(np.array(image), expected.numpy())
    with Image.open("predictions/grid.png") as grid:
        assert grid.size == (20 + 3 * 84 + 4, 20 + 2 * (60 + 18) + 2)  # captions below


def test_predictions_do_not_depend_on_batch_size_and_replace_old_files() -> None:
    predict(BlobModel((3, 16, 16)), Prompts(count=6, batch_size=6))
    before = [np.array(Image.open(f"predictions/00000{index}.png")) for index in range(4)]
    rows = predict(BlobModel((3, 16, 16)), Prompts(count=4, batch_size=3), grid=0)
    assert sorted(path.name for path in Path("predictions").glob("*.png")) == [row["file"] for row in rows]
    assert list(rows[0]) == ["index", "seed", "file"]
    after = [np.array(Image.open(f"predictions/00000{index}.png")) for index in range(4)]
    assert all(map(np.array_equal, before, after))


def photos(*names: str, folder: str = "photos") -> str:
    Path(folder).mkdir(exist_ok=True)
    for name in names:
        Image.effect_noise((28, 20), 80).save(f"{folder}/{name}.png")
    return folder


def test_reconstructions_are_named_after_input_files() -> None:
    rows = predict(BlobModel(), BlobData(predict=photos("cat", "dog")))
    assert [row["file"] for row in rows] == ["cat.png", "dog.png"]
    assert len(predict(BlobModel(), BlobData())) == 5  # of the dataset, which has no files


def test_prediction_grid_shows_inputs_above_reconstructions() -> None:
    predict(BlobModel(), BlobData(predict=photos("cat", "dog")))
    grid = torch.from_numpy(np.array(Image.open("predictions/grid.png"))).permute(2, 0, 1)
    assert grid.shape[1] == 20 + 2 * 60 + 2 + 18
    for column, name in enumerate(("cat", "dog")):
        left = grid.shape[2] - 10 - (2 - column) * 86 + 2
        for top, folder in ((10, "photos"), (72, "predictions")):
            shown = grid[0, top : top + 60 : 3, left : left + 84 : 3]
            assert np.array_equal(shown.numpy(), np.array(Image.open(f"{folder}/{name}.png")))


def test_input_named_grid_is_renamed() -> None:
    rows = predict(BlobModel(), BlobData(predict=photos("grid", "cat")))
    assert [row["file"] for row in rows] == ["cat.png", "grid_png.png"]
    assert Image.open("predictions/grid_png.png").size == (28, 20)


def test_predict_into_input_folder_raises() -> None:
    folder = photos("cat", folder="predictions")
    before = Path("predictions/cat.png").read_bytes()
    with pytest.raises(UsageError, match="data.predict must not be .*, the folder of the predictions"):
        predict(BlobModel(), BlobData(predict=folder))
    assert Path("predictions/cat.png").read_bytes() == before


def test_failed_predict_keeps_earlier_files() -> None:
    class Failing(BlobModel):
        def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            raise RuntimeError("no memory")

    predict(BlobModel(), Prompts(count=3))
    photos("mine", folder="predictions")
    before = {path.name: path.read_bytes() for path in Path("predictions").iterdir()}
    with pytest.raises(RuntimeError, match="no memory"):
        predict(Failing(), Prompts(count=2))
    assert {path.name: path.read_bytes() for path in Path("predictions").iterdir()} == before
    predict(BlobModel(), Prompts(count=1))
    left = sorted(path.name for path in Path("predictions").iterdir())
    assert left == ["000000.png", "grid.png", "mine.png", "samples.csv"]


def test_multiline_caption_is_drawn_on_one_line() -> None:
    (row,) = predict(BlobModel(), Prompts(captions=["a red circle\nover a green square " * 5]))
    assert row["caption"].count("\n") == 5


def test_duplicate_rows_of_ranks_are_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.callbacks.writers.sample_writer.gather_rows", lambda trainer, rows: rows + rows[:1])
    assert [row["index"] for row in predict(BlobModel(), Prompts(count=3))] == ["0", "1", "2"]


# --- invalid settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", [ReconstructionLogger, SampleLogger, LatentSpaceLogger, SampleWriter])
def test_model_without_sampling_raises(callback: type) -> None:
    class Segments(BlobModel):
        reconstruct = sample = interpolate = to_uint8 = None

    with pytest.raises(UsageError, match=rf"{callback.__name__} needs .*Segments does not have; .* VAE"):
        trainer(callback()).validate(Segments(), BlobData(), verbose=False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SampleLogger(0), r"SampleLogger.num_samples must be at least \d, got 0"),
        (lambda: SampleLogger(every_n_validations=0), r"SampleLogger.every_n_validations must be at least \d, got 0"),
        (lambda: LatentSpaceLogger(grid=0), r"LatentSpaceLogger.grid must be at least \d, got 0"),
        (lambda: ReconstructionLogger(-1), r"ReconstructionLogger.num_samples must be at least \d, got -1"),
        (lambda: SampleWriter(-1), r"SampleWriter.grid must be at least \d, got -1"),
    ],
)
def test_counts_below_one_raise(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


def test_loader_without_datamodule_raises() -> None:
    loader = DataLoader(BlobData().dataset("val"))
    with pytest.raises(UsageError, match="SampleLogger needs a datamodule"):
        trainer(SampleLogger()).validate(BlobModel(), loader, verbose=False)
