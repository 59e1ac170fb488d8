"""Figures of diffusion: samples by class and guidance, denoising and forward process, loss by timestep."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor

from darkroom.callbacks.loggers.denoising_logger import DenoisingLogger
from darkroom.callbacks.loggers.diffusion_sample_logger import DiffusionSampleLogger
from darkroom.callbacks.loggers.timestep_loss_logger import TimestepLossLogger
from darkroom.callbacks.plotting.grids import TITLE, expand_to_rgb
from darkroom.callbacks.training.progress_bar import QuietProgressBar
from darkroom.datamodules.captions.prompts import Prompts
from darkroom.errors import UsageError
from tests.callbacks.blobs import BlobData, BlobModel, trainer

T = 100


class Step(NamedTuple):
    index: int
    count: int
    t: float
    t_prev: float
    x: Tensor
    x0: Tensor


class Schedule(torch.nn.Module):
    """Schedule whose noise grows linearly with time."""

    num_steps = T

    def at(self, t: float) -> tuple[float, float]:
        return math.sqrt(1 - (t + 1) / T), math.sqrt((t + 1) / T)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        left = (1 - (t + 1) / T).view(-1, 1, 1, 1)
        return left.sqrt() * x + (1 - left).sqrt() * noise


class DiffusionModel(BlobModel):
    """Exact denoiser of grey images set by class and guidance, with some noise; its error is t / (2 T)."""

    def __init__(self, shape: tuple[int, int, int] = (1, 20, 28), num_classes: int | None = None) -> None:
        super().__init__(shape, num_classes=num_classes)
        self.schedule, self.on_step = Schedule(), None
        self.unguided: str | None = None
        self.calls: list[dict[str, Any]] = []
        self.times: list[Tensor] = []

    def draw_latents(self, n: int, generator: Sequence[torch.Generator] | None = None) -> Tensor:
        assert len(generator) == n
        return torch.stack([torch.randn(self.shape, generator=one) for one in generator])

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        generator: Sequence[torch.Generator] | None = None,
        callback: Callable[[Step], None] | None = None,
    ) -> Tensor:
        self.calls.append({"n": n, "labels": labels, "guidance": guidance, "sampler": sampler, "steps": steps})
        x, steps = self.draw_latents(n, generator), steps or 20
        grey = torch.zeros(n) if labels is None else (labels + 1) * 0.1 * (guidance or 1.0)
        x0 = grey.view(-1, 1, 1, 1) + 0.05 * x
        for index in range(steps):
            t, t_prev = T - 1 - index * T / steps, T - 1 - (index + 1) * T / steps
            x = torch.lerp(x, x0, 1 / (steps - index))
            x = x0 if index == steps - 1 else x
            if callback is not None:
                callback(Step(index, steps, t, t_prev, x, x0))
        return x

    def to_codes(self, images: Tensor) -> Tensor:
        return images

    to_images = to_codes

    def errors_at(
        self, x: Tensor, t: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        assert (labels is None) == (self.num_classes is None)
        self.times.append(t)
        return 0.5 * (t + 1) / T + 0 * torch.randn(len(t), generator=generator)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.on_step is not None:
            for index in range(3):
                self.on_step(Step(index, 3, 0, 0, Tensor(), Tensor()))
        return torch.zeros(len(batch["seed"]), *self.shape)


def read_figures(what: str) -> list[Tensor]:
    """Read the figures of a folder, sorted by step."""
    files = sorted(Path("figures", what).glob("*.png"))
    return [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]


def find_image(image: Tensor, sheet: Tensor) -> tuple[int, int]:
    """Return top and left of an image in a sheet, by comparing pixels."""
    height, width = image.shape[1:]
    for top in range(sheet.shape[1] - height + 1):
        near = sheet[:, top, :].unfold(1, width, 1) == image[:, :1]
        for left in near.all(2).all(0).nonzero().flatten().tolist():
            if torch.equal(sheet[:, top : top + height, left : left + width], image):
                return top, left
    raise AssertionError("the image is not in the sheet")


def noise(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Initial noise x_T of the callbacks' samples."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in seeds])


# --- samples ----------------------------------------------------------------------------------------------------------


def test_samples_are_rows_of_classes_and_groups_of_weights() -> None:
    model, shape, state = DiffusionModel((3, 48, 48), num_classes=3), (3, 48, 48), torch.get_rng_state()
    trainer(DiffusionSampleLogger(12, guidance=[1, 2.5])).validate(model, BlobData(shape), verbose=False)
    assert torch.equal(torch.get_rng_state(), state)
    (sheet,) = read_figures("val_samples")
    x, places = noise(2, shape), {}
    for label in range(3):
        for weight in (1, 2.5):
            images = expand_to_rgb(model.to_uint8((label + 1) * 0.1 * weight + 0.05 * x))
            for column in range(2):
                places[label, weight, column] = find_image(images[column], sheet)
    left = places[0, 1, 0][1]
    for (label, weight, column), place in places.items():
        group = 0 if weight == 1 else 2 * 48 + 2 + 20
        assert place == (10 + TITLE + 18 + 50 * label, left + 50 * column + group)


def test_samples_do_not_depend_on_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = []
    for chunk in (64, 5):
        monkeypatch.setattr("darkroom.callbacks.loggers.diffusion_sample_logger._CHUNK", chunk)
        model = DiffusionModel(num_classes=3)
        trainer(DiffusionSampleLogger(24)).validate(model, BlobData(), verbose=False)
        assert max(call["n"] for call in model.calls) <= chunk
        sheets += read_figures("val_samples")
    assert torch.equal(*sheets)


def test_unconditional_samples_are_a_grid_without_guidance() -> None:
    model, shape = DiffusionModel((1, 48, 48)), (1, 48, 48)
    logger = DiffusionSampleLogger(4, sampler="heun", steps=3, seed=5)
    trainer(logger).test(model, BlobData(shape), verbose=False)
    (sheet,) = read_figures("test_samples")
    for index, image in enumerate(expand_to_rgb(model.to_uint8(0.05 * noise(4, shape, seed=5)))):
        assert find_image(image, sheet) == (10 + TITLE + 50 * (index // 2), 10 + 50 * (index % 2))
    (call,) = model.calls
    assert (call["guidance"], call["sampler"], call["steps"]) == (None, "heun", 3)


def test_figure_of_large_images_is_narrower_than_1500_pixels() -> None:
    shape = (1, 300, 300)
    trainer(DiffusionSampleLogger(18)).validate(DiffusionModel(shape, 3), BlobData(shape), verbose=False)
    assert read_figures("val_samples")[0].shape[2] < 1500


def test_fit_writes_animation_of_samples() -> None:
    trainer(DiffusionSampleLogger(6), max_epochs=2).fit(DiffusionModel(num_classes=3), BlobData())
    assert Image.open("figures/samples/progress.gif").n_frames == 2


# --- denoising and forward process ------------------------------------------------------------------------------------


def test_denoising_strip_shows_x_t_above_predicted_x_0() -> None:
    model, shape = DiffusionModel((1, 64, 64), num_classes=3), (1, 64, 64)
    trainer(DenoisingLogger(2, grid=0)).validate(model, BlobData(shape), verbose=False)
    (sheet,), x = read_figures("val_denoising"), noise(2, shape)
    x0 = (torch.tensor([0, 2]) + 1).view(-1, 1, 1, 1) * 0.1 + 0.05 * x  # the first and last of three classes
    starts, ends = expand_to_rgb(model.to_uint8(x)), expand_to_rgb(model.to_uint8(x0))
    top, left = find_image(starts[0], sheet)
    assert find_image(starts[1], sheet) == (top + 2 * 66 + 18, left)
    for index in range(2):
        across = slice(left, left + 10 * 66 + 64)
        row = sheet[:, top + index * 150 : top + index * 150 + 64, across]
        predicted = sheet[:, top + 66 + index * 150 : top + 130 + index * 150, across]
        assert torch.equal(row[:, :, -64:], ends[index])  # a column beyond the ten moments: the sample
        assert all(torch.equal(predicted[:, :, 66 * c : 66 * c + 64], ends[index]) for c in range(10))
        assert (predicted[:, :, -64:] == 255).all()
        half = torch.lerp(x, x0, 0.5)[index]  # the moments are evenly spread
        assert (row[:, :, 5 * 66 : 5 * 66 + 64].int() - model.to_uint8(half).int()).abs().max() <= 1


def test_denoising_strip_shows_every_step_when_steps_are_few() -> None:
    model = DiffusionModel()
    trainer(DenoisingLogger(1, grid=2, steps=3)).test(model, BlobData(), verbose=False)
    assert [(call["n"], call["steps"]) for call in model.calls] == [(1, 3), (4, 3)]
    assert read_figures("test_denoising")[0].shape[2] < 5 * (84 + 2) + 120
    with Image.open("figures/test_denoising/trajectory.gif") as gif:
        assert gif.n_frames == 4


def test_fit_logs_strips_each_validation_and_forward_process_once() -> None:
    data, model = BlobData(), DiffusionModel(num_classes=3)
    state = torch.get_rng_state()
    trainer(DenoisingLogger(2), max_epochs=2, num_sanity_val_steps=1, limit_train_batches=0).validate(
        model, data, verbose=False
    )
    assert torch.equal(torch.get_rng_state(), state)
    first = trainer(DenoisingLogger(2), max_epochs=2, num_sanity_val_steps=1)
    first.fit(model, data)
    first.save_checkpoint("half.ckpt")
    trainer(DenoisingLogger(2), max_epochs=3).fit(model, data, ckpt_path="half.ckpt")
    assert len(read_figures("denoising")) == 3
    assert len(read_figures("forward_process")) == 1
    assert [path.name for path in Path("figures/denoising").glob("*.gif")] == ["trajectory.gif"]


def test_forward_process_goes_from_image_to_noise() -> None:
    shape, model = (1, 64, 64), DiffusionModel((1, 64, 64))
    data = BlobData(shape)
    trainer(DenoisingLogger(2, grid=0, seed=3)).validate(model, data, verbose=False)
    (sheet,) = read_figures("val_forward_process")
    x = torch.stack([data.dataset("val")[index]["image"] for index in range(2)]).float() / 127.5 - 1
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    for index in range(2):
        top, left = find_image(expand_to_rgb(model.to_uint8(x))[index], sheet)
        assert (top, left) == (10 + TITLE + 18 + 66 * index, 10)
        for column, t in ((1, 0), (10, T - 1)):
            noisy = model.schedule.add_noise(x, eps, torch.full((2,), t))
            shown = sheet[:, top : top + 64, 10 + 66 * column : 74 + 66 * column].int()
            assert (shown - model.to_uint8(noisy)[index].int()).abs().max() <= 1


# --- loss by timestep -------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Tensor], list[str]]]:
    """Record the curves and names of every figure."""
    sheets = []

    def record(series: list[Tensor], names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        sheets.append((series, names))
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    monkeypatch.setattr("darkroom.callbacks.loggers.timestep_loss_logger.curves", record)
    return sheets


def test_loss_is_averaged_in_timestep_bins(shown: list[Any]) -> None:
    model, state = DiffusionModel(num_classes=3), torch.get_rng_state()
    trainer(TimestepLossLogger(bins=4)).validate(model, BlobData(batch_size=14), verbose=False)
    assert torch.equal(torch.get_rng_state(), state)
    ((curve,), _), times = shown[0], torch.cat(model.times)
    assert curve[:, 0].tolist() == [12.5, 37.5, 62.5, 87.5]
    assert (curve[:, 1] - 0.5 * curve[:, 0] / T).abs().max() < 0.04
    assert (times * 14 // T).sort().values.tolist() == list(range(14))  # one time in each of 14 equal intervals
    assert times.tolist() != times.sort().values.tolist()  # data may be sorted
    assert len(read_figures("val_loss_by_timestep")) == 1


def test_timestep_loss_uses_same_times_and_images_every_validation(shown: list[Any]) -> None:
    model = DiffusionModel()
    trainer(TimestepLossLogger(num_images=7, bins=3), max_epochs=2).fit(model, BlobData())
    assert [len(t) for t in model.times] == [2] * 8  # two of each of four batches
    assert torch.equal(torch.cat(model.times[:4]), torch.cat(model.times[4:]))
    assert torch.equal(shown[1][0][0].nan_to_num(), shown[1][0][1].nan_to_num())


def test_earlier_curves_are_kept_after_resume(shown: list[Any]) -> None:
    model, data = DiffusionModel(), BlobData()
    first = trainer(TimestepLossLogger(), max_epochs=2)
    first.fit(model, data)
    first.save_checkpoint("half.ckpt")
    trainer(TimestepLossLogger(), max_epochs=11).fit(model, data, ckpt_path="half.ckpt")
    assert [names for _, names in shown[:3]] == [
        ["step 1"],
        ["step 1", "step 3"],
        ["step 1", "step 3", "step 5"],
    ]
    assert shown[-1][1][0] == "step 1"
    assert shown[-1][1][-1] == "step 21"
    assert len(shown[-1][1]) == 8  # of eleven
    trainer(TimestepLossLogger()).validate(model, data, ckpt_path="half.ckpt", verbose=False)
    assert len(shown[-1][0]) == 1  # outside of a fit there is one curve


# --- progress bar -----------------------------------------------------------------------------------------------------


def predict(model: BlobModel) -> None:
    """Predict with a progress bar."""
    Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[QuietProgressBar()]).predict(
        model, Prompts(count=2), return_predictions=False
    )


def test_progress_bar_counts_steps_and_removes_its_hook(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    class Failing(DiffusionModel):
        def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            super().predict_step(batch, batch_idx)
            raise RuntimeError("no memory")

    for model in (DiffusionModel(), Failing(), BlobModel()):
        try:
            predict(model)
        except RuntimeError:
            assert isinstance(model, Failing)
        assert ("step 1/3" in capsys.readouterr().out) == isinstance(model, DiffusionModel)
        assert getattr(model, "on_step", None) is None


def test_progress_bar_keeps_hook_of_others() -> None:
    model, seen = DiffusionModel(), []
    model.on_step = seen.append
    predict(model)
    assert len(seen) == 3
    assert model.on_step == seen.append


# --- invalid settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", [DiffusionSampleLogger, DenoisingLogger, TimestepLossLogger])
def test_model_without_diffusion_steps_raises(callback: type) -> None:
    with pytest.raises(
        UsageError,
        match=rf"{callback.__name__} needs errors_at, schedule, to_codes, to_images of the module, which BlobModel does "
        "not have; .* DDPM",
    ):
        trainer(callback()).validate(BlobModel(), BlobData(), verbose=False)


def test_guidance_without_label_dropout_raises_before_training() -> None:
    model = DiffusionModel(num_classes=3)
    model.unguided = "model.label_dropout is 0"
    with pytest.raises(UsageError, match=r"guidance has 2.0, but model.label_dropout is 0"):
        trainer(DiffusionSampleLogger()).fit(model, BlobData())
    trainer(DiffusionSampleLogger(guidance=[1.0])).validate(model, BlobData(), verbose=False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DiffusionSampleLogger(0), r"DiffusionSampleLogger.num_samples must be at least \d, got 0"),
        (lambda: DiffusionSampleLogger(guidance=[]), "DiffusionSampleLogger.guidance is empty"),
        (lambda: DenoisingLogger(0), r"DenoisingLogger.num_samples must be at least \d, got 0"),
        (lambda: DenoisingLogger(grid=-1), r"DenoisingLogger.grid must be at least \d, got -1"),
        (lambda: TimestepLossLogger(num_images=0), r"TimestepLossLogger.num_images must be at least \d, got 0"),
        (lambda: TimestepLossLogger(bins=0), r"TimestepLossLogger.bins must be at least \d, got 0"),
    ],
)
def test_invalid_counts_raise(build: Callable, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
