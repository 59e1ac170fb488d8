"""What one sees of diffusion: samples by class and guidance, the way there and back, the loss at every time."""

import math
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
    """Noise that grows evenly with the time."""

    num_steps = T

    def at(self, t: float) -> tuple[float, float]:
        return math.sqrt(1 - (t + 1) / T), math.sqrt((t + 1) / T)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        left = (1 - (t + 1) / T).view(-1, 1, 1, 1)
        return left.sqrt() * x + (1 - left).sqrt() * noise


class DiffusionModel(BlobModel):
    """Knows its pictures: grey as class and guidance say, with a little of their noise. It errs by half of t / T."""

    def __init__(self, shape: tuple[int, int, int] = (1, 20, 28), num_classes: int | None = None) -> None:
        super().__init__(shape, num_classes=num_classes)
        self.schedule, self.on_step = Schedule(), None
        self.unguided: str | None = None
        self.calls: list[dict[str, Any]] = []
        self.asked: list[Tensor] = []

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

    def errors_at(
        self, x: Tensor, t: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        assert (labels is None) == (self.num_classes is None)
        self.asked.append(t)
        return 0.5 * (t + 1) / T + 0 * torch.randn(len(t), generator=generator)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.on_step is not None:
            for index in range(3):
                self.on_step(Step(index, 3, 0, 0, Tensor(), Tensor()))
        return torch.zeros(len(batch["seed"]), *self.shape)


def drawn(what: str) -> list[Tensor]:
    """The pictures in one of the folders, by step."""
    files = sorted(Path("figures", what).glob("*.png"))
    return [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]


def place_of(picture: Tensor, sheet: Tensor) -> tuple[int, int]:
    """Where a picture lies in a sheet, pixel by pixel: its top and left."""
    height, width = picture.shape[1:]
    for top in range(sheet.shape[1] - height + 1):
        near = sheet[:, top, :].unfold(1, width, 1) == picture[:, :1]
        for left in near.all(2).all(0).nonzero().flatten().tolist():
            if torch.equal(sheet[:, top : top + height, left : left + width], picture):
                return top, left
    raise AssertionError("the picture is not in the sheet")


def noise(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """x_T as the callbacks give it to samples."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in seeds])


# --- samples ----------------------------------------------------------------------------------------------------------


def test_classes_are_rows_weights_are_groups_and_columns_share_their_noise() -> None:
    model, shape, state = DiffusionModel((3, 48, 48), num_classes=3), (3, 48, 48), torch.get_rng_state()
    trainer(DiffusionSampleLogger(12, guidance=[1, 2.5])).validate(model, BlobData(shape), verbose=False)
    assert torch.equal(torch.get_rng_state(), state)
    (sheet,) = drawn("val_samples")
    x, places = noise(2, shape), {}
    for label in range(3):
        for weight in (1, 2.5):
            pictures = expand_to_rgb(model.to_uint8((label + 1) * 0.1 * weight + 0.05 * x))
            for column in range(2):
                places[label, weight, column] = place_of(pictures[column], sheet)
    left = places[0, 1, 0][1]
    for (label, weight, column), place in places.items():
        group = 0 if weight == 1 else 2 * 48 + 2 + 20
        assert place == (10 + TITLE + 18 + 50 * label, left + 50 * column + group)


def test_a_picture_does_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = []
    for chunk in (64, 5):
        monkeypatch.setattr("darkroom.callbacks.loggers.diffusion_sample_logger._CHUNK", chunk)
        model = DiffusionModel(num_classes=3)
        trainer(DiffusionSampleLogger(24)).validate(model, BlobData(), verbose=False)
        assert max(call["n"] for call in model.calls) <= chunk
        sheets += drawn("val_samples")
    assert torch.equal(*sheets)


def test_without_classes_it_is_a_plain_grid_and_guidance_has_no_say() -> None:
    model, shape = DiffusionModel((1, 48, 48)), (1, 48, 48)
    logger = DiffusionSampleLogger(4, sampler="heun", steps=3, seed=5)
    trainer(logger).test(model, BlobData(shape), verbose=False)
    (sheet,) = drawn("test_samples")
    for index, picture in enumerate(expand_to_rgb(model.to_uint8(0.05 * noise(4, shape, seed=5)))):
        assert place_of(picture, sheet) == (10 + TITLE + 50 * (index // 2), 10 + 50 * (index % 2))
    (call,) = model.calls
    assert (call["guidance"], call["sampler"], call["steps"]) == (None, "heun", 3)


def test_large_pictures_in_many_groups_fit_on_a_screen() -> None:
    shape = (1, 300, 300)
    trainer(DiffusionSampleLogger(18)).validate(DiffusionModel(shape, 3), BlobData(shape), verbose=False)
    assert drawn("val_samples")[0].shape[2] < 1500


def test_a_fit_leaves_the_progress_of_samples() -> None:
    trainer(DiffusionSampleLogger(6), max_epochs=2).fit(DiffusionModel(num_classes=3), BlobData())
    assert Image.open("figures/samples/progress.gif").n_frames == 2


# --- there and back ---------------------------------------------------------------------------------------------------


def test_a_strip_goes_from_noise_to_the_sample_over_what_the_network_predicts() -> None:
    model, shape = DiffusionModel((1, 64, 64), num_classes=3), (1, 64, 64)
    trainer(DenoisingLogger(2, grid=0)).validate(model, BlobData(shape), verbose=False)
    (sheet,), x = drawn("val_denoising"), noise(2, shape)
    x0 = (torch.tensor([0, 2]) + 1).view(-1, 1, 1, 1) * 0.1 + 0.05 * x  # of three classes both ends
    starts, ends = expand_to_rgb(model.to_uint8(x)), expand_to_rgb(model.to_uint8(x0))
    top, left = place_of(starts[0], sheet)
    assert place_of(starts[1], sheet) == (top + 2 * 66 + 18, left)
    for index in range(2):
        across = slice(left, left + 10 * 66 + 64)
        row = sheet[:, top + index * 150 : top + index * 150 + 64, across]
        predicted = sheet[:, top + 66 + index * 150 : top + 130 + index * 150, across]
        assert torch.equal(row[:, :, -64:], ends[index])  # a column beyond the ten moments: the sample
        assert all(torch.equal(predicted[:, :, 66 * c : 66 * c + 64], ends[index]) for c in range(10))
        assert (predicted[:, :, -64:] == 255).all()
        half = torch.lerp(x, x0, 0.5)[index]  # the moments are evenly spread
        assert (row[:, :, 5 * 66 : 5 * 66 + 64].int() - model.to_uint8(half).int()).abs().max() <= 1


def test_few_steps_are_all_shown_and_the_animation_ends_with_the_sample() -> None:
    model = DiffusionModel()
    trainer(DenoisingLogger(1, grid=2, steps=3)).test(model, BlobData(), verbose=False)
    assert [(call["n"], call["steps"]) for call in model.calls] == [(1, 3), (4, 3)]
    assert drawn("test_denoising")[0].shape[2] < 5 * (84 + 2) + 120
    with Image.open("figures/test_denoising/trajectory.gif") as gif:
        assert gif.n_frames == 4


def test_a_fit_draws_strips_every_time_and_forward_process_and_animation_once() -> None:
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
    assert len(drawn("denoising")) == 3
    assert len(drawn("forward_process")) == 1
    assert [path.name for path in Path("figures/denoising").glob("*.gif")] == ["trajectory.gif"]


def test_the_forward_process_goes_from_the_picture_to_noise() -> None:
    shape, model = (1, 64, 64), DiffusionModel((1, 64, 64))
    data = BlobData(shape)
    trainer(DenoisingLogger(2, grid=0, seed=3)).validate(model, data, verbose=False)
    (sheet,) = drawn("val_forward_process")
    x = torch.stack([data.dataset("val")[index]["image"] for index in range(2)]).float() / 127.5 - 1
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    for index in range(2):
        top, left = place_of(expand_to_rgb(model.to_uint8(x))[index], sheet)
        assert (top, left) == (10 + TITLE + 18 + 66 * index, 10)
        for column, t in ((1, 0), (10, T - 1)):
            noisy = model.schedule.add_noise(x, eps, torch.full((2,), t))
            shown = sheet[:, top : top + 64, 10 + 66 * column : 74 + 66 * column].int()
            assert (shown - model.to_uint8(noisy)[index].int()).abs().max() <= 1


# --- loss by timestep -------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Tensor], list[str]]]:
    """What curves and names are drawn, sheet by sheet."""
    sheets = []

    def record(series: list[Tensor], names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        sheets.append((series, names))
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    monkeypatch.setattr("darkroom.callbacks.loggers.timestep_loss_logger.curves", record)
    return sheets


def test_errors_are_averaged_over_parts_of_the_time(shown: list[Any]) -> None:
    model, state = DiffusionModel(num_classes=3), torch.get_rng_state()
    trainer(TimestepLossLogger(bins=4)).validate(model, BlobData(batch_size=14), verbose=False)
    assert torch.equal(torch.get_rng_state(), state)
    ((curve,), _), times = shown[0], torch.cat(model.asked)
    assert curve[:, 0].tolist() == [12.5, 37.5, 62.5, 87.5]
    assert (curve[:, 1] - 0.5 * curve[:, 0] / T).abs().max() < 0.04
    assert (times * 14 // T).sort().values.tolist() == list(range(14))  # one time in each of as many parts
    assert times.tolist() != times.sort().values.tolist()  # data may be sorted
    assert len(drawn("val_loss_by_timestep")) == 1


def test_times_are_the_same_every_time_and_pictures_spread_over_the_set(shown: list[Any]) -> None:
    model = DiffusionModel()
    trainer(TimestepLossLogger(num_images=7, bins=3), max_epochs=2).fit(model, BlobData())
    assert [len(t) for t in model.asked] == [2] * 8  # two of each of four batches
    assert torch.equal(torch.cat(model.asked[:4]), torch.cat(model.asked[4:]))
    assert torch.equal(shown[1][0][0].nan_to_num(), shown[1][0][1].nan_to_num())


def test_earlier_curves_stay_behind_the_newest_also_when_continued(shown: list[Any]) -> None:
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
    assert len(shown[-1][0]) == 1  # outside of a fit it stands alone


# --- the bar ----------------------------------------------------------------------------------------------------------


def predict(model: BlobModel) -> None:
    """With a bar."""
    Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[QuietProgressBar()]).predict(
        model, Prompts(count=2), return_predictions=False
    )


def test_the_bar_of_a_prediction_counts_steps_and_lets_go(capsys: pytest.CaptureFixture) -> None:
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


def test_the_bar_leaves_alone_who_else_watches() -> None:
    model, seen = DiffusionModel(), []
    model.on_step = seen.append
    predict(model)
    assert len(seen) == 3
    assert model.on_step == seen.append


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", [DiffusionSampleLogger, DenoisingLogger, TimestepLossLogger])
def test_a_technique_without_steps_is_refused(callback: type) -> None:
    with pytest.raises(
        UsageError,
        match=rf"{callback.__name__} needs errors_at, schedule of the module, which BlobModel does not have; .* DDPM",
    ):
        trainer(callback()).validate(BlobModel(), BlobData(), verbose=False)


def test_guidance_that_was_not_learned_is_refused_before_training() -> None:
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
def test_counts_are_checked(build: Callable, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
