"""Figures and files of prompts: guidance, cascades, upsampling, attention maps, predictions."""

import csv
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image, ImageFont
from torch import Tensor

from darkroom.callbacks.base import generators
from darkroom.callbacks.loggers.attention_map_logger import AttentionMapLogger
from darkroom.callbacks.loggers.cascade_logger import CascadeLogger
from darkroom.callbacks.loggers.prompt_logger import PromptLogger
from darkroom.callbacks.loggers.sample_logger import SampleLogger
from darkroom.callbacks.loggers.upsampling_logger import UpsamplingLogger, crop_center, psnr
from darkroom.callbacks.plotting.grids import TITLE, image_grid, wrap
from darkroom.callbacks.plotting.images import heat_colours, overlay_heat, resize
from darkroom.callbacks.writers.sample_writer import SampleWriter, slug
from darkroom.datamodules.captions.caption_folder import CaptionFolder
from darkroom.datamodules.captions.prompts import Prompts
from darkroom.errors import UsageError
from tests.callbacks.blobs import BlobData, BlobModel, trainer
from tests.callbacks.prompt_fakes import (
    CAPTIONS,
    CaptionedData,
    CascadeModel,
    TextModel,
    UpsamplingModel,
    places,
    square,
)

DIFFERENT = [CAPTIONS[0], CAPTIONS[1], CAPTIONS[3]]


def read_figures(what: str) -> list[Tensor]:
    """Read the figures of a folder, sorted by step."""
    files = sorted(Path("figures", what).glob("*.png"))
    return [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]


def tile_of(prompt: str, place: tuple[int, int], weight: float = 4.0, side: int = 64) -> Tensor:
    """Return the sample of TextModel as the figure shows it."""
    image = 1 - (1 - square(prompt, place, 16)) * weight / 4
    return resize(BlobModel().to_uint8(image), (side, side))


class RecordingLogger(WandbLogger):
    """Replacement of the W&B logger that records images and videos."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.videos: list[str] = []
        Logger.__init__(self)

    name = version = save_dir = None

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.images[key] = {"images": images, **kwargs}

    def log_video(self, key: str, videos: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.videos.append(key)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...
    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...
    def log_graph(self, *args: Any, **kwargs: Any) -> None: ...
    def after_save_checkpoint(self, *args: Any) -> None: ...
    def finalize(self, status: str) -> None: ...


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record titles, heads and captions of the figures of stages and upsampling."""
    written = []

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        written.append(inspect.signature(image_grid).bind(*args, **kwargs).arguments)
        return image_grid(*args, **kwargs)

    for name in ("cascade_logger", "upsampling_logger"):
        monkeypatch.setattr(f"darkroom.callbacks.loggers.{name}.image_grid", noted)
    return written


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_prompts_are_rows_and_guidance_weights_are_groups() -> None:
    model, state = TextModel(), torch.get_rng_state()
    model.trained_steps = 7  # shown in the title
    prompts = ["a red square", "a blue square, beside which there is nothing else to be seen at all"]
    trainer(PromptLogger(prompts, num_samples=3, guidance=[1, 4], steps=5)).validate(
        model, CaptionedData(), verbose=False
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert [(call["guidance"], call["steps"]) for call in model.calls] == [(1, 5), (4, 5)]
    (sheet,) = read_figures("val_prompts")
    right = sheet.shape[2] - 10 - (3 * 66 - 2)  # of the second group
    for row, prompt in enumerate(prompts):
        for group, weight in enumerate((1, 4)):
            for column, place in enumerate(places(generators(0, 3), 16)):
                left = right + 66 * column - (1 - group) * (3 * 66 - 2 + 20)
                top = 10 + TITLE + 18 + 66 * row
                assert torch.equal(sheet[:, top : top + 64, left : left + 64], tile_of(prompt, place, weight))
    assert sheet.shape[2] < 20 + 200 + 6 * 66 + 20  # a long prompt is wrap


def test_default_prompts_are_first_distinct_captions() -> None:
    for logger, expected in ((PromptLogger(num_prompts=5), DIFFERENT), (PromptLogger(num_prompts=2), DIFFERENT[:2])):
        model = TextModel()
        fit = trainer(logger, max_epochs=2, num_sanity_val_steps=1)
        fit.fit(model, CaptionedData(batch_size=2))
        assert len(model.calls) == 6
        assert all(call["captions"][::4] == expected for call in model.calls)
    assert len(read_figures("prompts")) == 2
    with Image.open("figures/prompts/progress.gif") as gif:
        assert gif.size[0] > 400


def test_samples_do_not_depend_on_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = []
    for chunk in (64, 5):
        monkeypatch.setattr("darkroom.callbacks.loggers.prompt_logger._CHUNK", chunk)
        model = TextModel()
        trainer(PromptLogger()).test(model, CaptionedData(), verbose=False)
        assert max(len(call["captions"]) for call in model.calls) <= chunk
        sheets += read_figures("test_prompts")
    assert torch.equal(*sheets)


def test_wandb_logs_every_image_with_its_prompt() -> None:
    listener = RecordingLogger()
    trainer(PromptLogger(num_samples=2, guidance=[1, 2.5]), max_epochs=2, logger=listener).fit(
        TextModel(), CaptionedData()
    )
    given = listener.images["prompts"]
    assert len(given["images"]) == len(given["caption"]) == 3 * 2 * 2
    assert given["caption"][::2] == [f"{prompt} (guidance {weight})" for weight in ("1", "2.5") for prompt in DIFFERENT]
    assert given["images"][0].shape == (16, 16, 3)
    assert listener.videos == ["prompts_progress"]


def test_prompt_logger_supports_cascades() -> None:
    trainer(PromptLogger()).test(CascadeModel(), CaptionedData(), verbose=False)
    assert len(read_figures("test_prompts")) == 1


def test_text_is_wrapped_and_truncated_with_ellipsis() -> None:
    font = ImageFont.load_default(12)
    text = "a small red circle left of a large blue square"
    lines = wrap(text, 100, font, 5)
    assert " ".join(lines) == text
    assert len(lines) > 2
    assert all(font.getlength(line) <= 100 for line in lines)
    assert wrap(text, 100, font, 2)[0] == lines[0]
    assert wrap(text, 100, font, 2)[1].endswith("…")
    assert wrap("", 100, font, 2) == []


# --- stages -----------------------------------------------------------------------------------------------------------


def test_cascade_stages_are_shown_at_one_size() -> None:
    trainer(CascadeLogger(num_prompts=2, seed=3)).test(CascadeModel(), CaptionedData(), verbose=False)
    (sheet,), model = read_figures("test_stages"), CascadeModel()
    for row, prompt in enumerate(DIFFERENT[:2]):
        stages = model.sample([prompt], generator=generators(3, 2)[row : row + 1], stages=True)
        for column, stage in enumerate(stages):
            left, top = sheet.shape[2] - 10 - (2 - column) * 226 + 2, 10 + 18 + 226 * row
            shown = sheet[:, top : top + 224, left : left + 224]
            assert torch.equal(shown, resize(model.to_uint8(stage)[0], (224, 224)))


def test_predict_stages_match_written_images() -> None:
    listener = RecordingLogger()
    data = Prompts(captions=["a red square", "a green square"], count=5, batch_size=2)
    callbacks = (CascadeLogger(num_prompts=3), SampleWriter())
    trainer(*callbacks, logger=listener).predict(CascadeModel(), data, return_predictions=False)
    given = listener.images["predict_stages"]
    assert given["caption"] == [
        f"a {colour} square ({head})"
        for colour in ("red", "green", "red")
        for head in ("8 x 8, guidance 2", "16 x 16, augmentation 0.1")
    ]
    for index, name in enumerate(("000000_a-red-square", "000001_a-green-square", "000002_a-red-square")):
        written = np.array(Image.open(f"predictions/{name}.png"))
        assert np.array_equal(given["images"][2 * index + 1][::14, ::14], written)


def test_cascade_heads_show_settings_and_title_shows_step(sheets: list[dict[str, Any]]) -> None:
    model = CascadeModel()
    model.guidance, model.augmentation, model.trained_steps = [1.0, 1.35], [None], 7
    for steps, title in ((7, "step 7"), (0, "")):
        model.trained_steps = steps
        trainer(CascadeLogger(num_prompts=1)).test(model, CaptionedData(), verbose=False)
        assert sheets[-1]["title"] == title
        assert sheets[-1]["heads"] == ["8 x 8", "16 x 16, guidance 1.35, augmentation 0.25"]


# --- upsampling -------------------------------------------------------------------------------------------------------


def test_upsampling_figure_shows_low_bicubic_sampled_and_true_images() -> None:
    listener, model = RecordingLogger(), UpsamplingModel()
    logger = UpsamplingLogger(3, guidance=2, augmentation=0.1, steps=4)
    trainer(logger, logger=listener).validate(model, data := CaptionedData(), verbose=False)
    options = {"augmentation": 0.1, "guidance": 2, "steps": 4}
    assert model.calls == [{"captions": list(CAPTIONS[:3]), **options}]
    given = listener.images["val_upsampling"]
    for index in range(3):
        true = data.dataset("val")[index]["image"]
        _, bicubic, output, last = (
            torch.from_numpy(image).permute(2, 0, 1) for image in given["images"][4 * index :][:4]
        )
        assert torch.equal(last[:, ::10, ::10], true)
        assert given["caption"][4 * index] == f"{CAPTIONS[index]}, 8 x 8"
        for name, picture in (("bicubic", bicubic), ("sampled", output)):
            assert (
                f"{name}, {psnr(picture[:, ::10, ::10], true):.1f} dB"
                in given["caption"][4 * index + 1 + (name == "sampled")]
            )
    before = read_figures("val_upsampling")[0]
    trainer(UpsamplingLogger(3, augmentation=0.1)).validate(model, CaptionedData(batch_size=2), verbose=False)
    assert torch.equal(before, read_figures("val_upsampling")[0])


def test_upsampling_figure_shows_mean_psnr(sheets: list[dict[str, Any]]) -> None:
    trainer(UpsamplingLogger(3)).validate(UpsamplingModel(), CaptionedData(), verbose=False)
    (sheet,) = sheets
    for column, name in ((1, "bicubic"), (2, "sampled")):
        mean = sum(float(row[column].removesuffix(" dB")) for row in sheet["captions"]) / 3
        head, value = sheet["heads"][column].removesuffix(" dB").split(", mean ")
        assert head == name
        assert float(value) == pytest.approx(mean, abs=0.11)
    assert sheet["heads"][::3] == ["8 x 8", "true"]


def test_upsampling_needs_no_captions_and_crops_large_images() -> None:
    trainer(UpsamplingLogger(2)).test(UpsamplingModel(), BlobData((3, 16, 16)), verbose=False)
    trainer(UpsamplingLogger(1), max_epochs=1).fit(UpsamplingModel(400), BlobData((3, 400, 400)))
    assert read_figures("val_upsampling")[0].shape == (3, 20 + TITLE + 18 + 320 + 18 + 2 - 2, 20 + 4 * 322 - 2)
    image = torch.arange(3 * 5 * 7).view(3, 5, 7)
    assert torch.equal(crop_center(image, 3), image[:, 1:4, 2:5])


def test_psnr_matches_known_decibels() -> None:
    black = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert psnr(black + 255, black) == pytest.approx(0)
    assert psnr(black + 1, black) == pytest.approx(48.13, abs=0.01)
    assert psnr(black, black) == float("inf")


# --- attention --------------------------------------------------------------------------------------------------------


def test_attention_map_is_bright_where_word_attends() -> None:
    listener = RecordingLogger()
    trainer(AttentionMapLogger(["a red square"], seed=1), logger=listener, max_epochs=1).fit(
        TextModel(), CaptionedData()
    )
    given = listener.images["attention"]
    assert given["caption"] == ["a red square", *(f"{word}: a red square" for word in ("a", "red", "square"))]
    (place,) = places(generators(1, 1), 16)
    there = (square("red", place, 16) < 1).any(0)
    for image in given["images"][1:]:
        brightness = torch.from_numpy(image[3::7, 3::7]).float().mean(2)
        assert brightness[there].min() > brightness[~there].max()
    (sheet,) = read_figures("attention")
    assert sheet.shape[1] == 20 + TITLE + 112 + 18


def test_weak_attention_is_dark_and_long_prompts_wrap() -> None:
    class FadingMaps(TextModel):
        def word_maps(self, captions: list[str], **kwargs: Any) -> tuple[Tensor, list[list[str]], list[Tensor]]:
            images, words, maps = super().word_maps(captions, **kwargs)
            weights = [torch.linspace(1, 0, len(some)).view(-1, 1, 1) for some in words]
            return images, words, [one * weight for one, weight in zip(maps, weights, strict=True)]

    prompts = [" ".join(["red"] * 12), "red"]
    listener = RecordingLogger()
    trainer(AttentionMapLogger(prompts), logger=listener).test(FadingMaps(), CaptionedData(), verbose=False)
    brightest = [image.max() for image in listener.images["test_attention"]["images"]]
    assert brightest[1] == brightest[9] > brightest[11] > brightest[12]
    (sheet,) = read_figures("test_attention")
    assert sheet.shape[1] == 20 + TITLE + 3 * (112 + 18) + 2 * 2


def test_heat_overlay_is_monotonic_and_keeps_image_visible() -> None:
    ramp = heat_colours(torch.linspace(0, 1, 20)[None]).mean(0)[0]
    assert (ramp.diff() > 0).all()
    half = torch.zeros(3, 20, 20, dtype=torch.uint8)
    half[:, :, 10:] = 255
    for strength in (0.0, 1.0):
        shown = overlay_heat(half, torch.full((4, 4), strength)).float()
        assert shown[:, :, :10].mean() < shown[:, :, 10:].mean() - 10


# --- the writer -------------------------------------------------------------------------------------------------------


def predict(data: Any) -> list[dict[str, str]]:
    """Predict and return the rows of captions.tsv."""
    trainer(SampleWriter()).predict(TextModel(), data, return_predictions=False)
    return list(csv.DictReader(Path("predictions/captions.tsv").open(newline=""), dialect="excel-tab"))


def test_predictions_can_be_read_by_caption_folder() -> None:
    captions = ["a red square", 'a "green"\tsquare,\nthat is', "blue"]
    rows = predict(Prompts(captions=captions, count=10, batch_size=4))
    assert list(rows[0]) == ["file", "caption", "seed"]
    names = ["a-red-square", "a-green-square-that-is", "blue"]
    assert [row["file"] for row in rows] == [f"{index:06d}_{names[index % 3]}.png" for index in range(10)]
    assert rows[1]["caption"] == 'a "green" square, that is'
    (place,) = places([torch.Generator().manual_seed(int(rows[3]["seed"]))], 16)
    written = torch.from_numpy(np.array(Image.open("predictions/000003_a-red-square.png"))).permute(2, 0, 1)
    assert torch.equal(written, TextModel().to_uint8(square("red", place, 16)))
    folder = CaptionFolder("predictions", size=16, test_fraction=0.5)
    folder.setup("test")
    read = [folder.test_dataloader().dataset[index]["caption"] for index in range(3)]
    assert set(read) <= {row["caption"] for row in rows}


def test_predictions_do_not_depend_on_batch_size_and_replace_old_files() -> None:
    wanted = {"captions": ["a red square", "a green square"], "seed": 4}
    first = predict(Prompts(**wanted, count=6, batch_size=6))
    before = {row["file"]: Path("predictions", row["file"]).read_bytes() for row in first[:4]}
    Path("predictions/mine.png").touch()
    rows = predict(Prompts(**wanted, count=4, batch_size=3))
    assert rows == first[:4]
    assert {path.name for path in Path("predictions").glob("*.png")} == {*before, "grid.png", "mine.png"}
    assert {name: Path("predictions", name).read_bytes() for name in before} == before


def test_predict_without_captions_deletes_captions_file() -> None:
    predict(Prompts(captions=["a red square"]))
    trainer(SampleWriter()).predict(BlobModel(), Prompts(count=1), return_predictions=False)
    assert sorted(path.name for path in Path("predictions").iterdir()) == ["000000.png", "grid.png", "samples.csv"]


def test_rows_of_all_ranks_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"index": 0, "seed": 7, "caption": "a red square", "file": "000000_a-red-square.png"}
    Path("predictions").mkdir()
    Image.new("RGB", (16, 16)).save("predictions/000000_a-red-square.png")  # the other rank's

    def gathered(trainer: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"index": 1 + row["index"], "file": row["file"]} for row in rows] + [other]

    monkeypatch.setattr("darkroom.callbacks.writers.sample_writer.gather_rows", gathered)
    rows = predict(Prompts(captions=["a green square"], count=1))
    assert [row["caption"] for row in rows] == ["a red square", "a green square"]


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A red circle, left of a blue square!", "a-red-circle-left-of-a-blue-square"),
        ("Ein Käfer / ../etc", "ein-kafer-etc"),
        ("日本", ""),
        (" ".join(["word"] * 40), "-".join(["word"] * 12)),
        ("x" * 300, "x" * 60),
    ],
)
def test_file_name_of_caption_is_short_and_safe(caption: str, name: str) -> None:
    assert slug(caption) == name


# --- invalid settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callback", "model", "message"),
    [
        (
            PromptLogger(),
            BlobModel(),
            "PromptLogger calls sample with captions, guidance, steps, which BlobModel.sample",
        ),
        (
            SampleLogger(),
            TextModel(),
            "SampleLogger calls sample with n, labels, which TextModel.sample does not accept",
        ),
        (
            CascadeLogger(),
            TextModel(),
            "CascadeLogger needs augmentation, guidance, stages of the module, .* use it with ImagenCascade",
        ),
        (
            AttentionMapLogger(),
            CascadeModel(),
            "AttentionMapLogger needs word_maps of the module, which CascadeModel does not have; .* TextToImage",
        ),
        (
            UpsamplingLogger(),
            TextModel(),
            "UpsamplingLogger needs reduced, upsampled of the module, which TextModel does not have",
        ),
    ],
)
def test_model_without_required_sampling_raises(callback: Any, model: BlobModel, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer(callback).validate(model, CaptionedData(), verbose=False)


def test_data_without_captions_requires_prompts() -> None:
    data = BlobData((3, 16, 16))
    with pytest.raises(
        UsageError, match="PromptLogger samples captions of the data, but BlobData has none; give it prompts"
    ):
        trainer(PromptLogger()).validate(TextModel(), data, verbose=False)
    trainer(PromptLogger(["a red square"])).validate(TextModel(), data, verbose=False)


def test_guidance_without_text_dropout_raises_before_training() -> None:
    model = TextModel()
    model.unguided = "model.text_dropout is 0"
    with pytest.raises(UsageError, match=r"guidance has 2.0, but model.text_dropout is 0; or set it to \[1.0\]"):
        trainer(PromptLogger()).fit(model, CaptionedData())
    trainer(PromptLogger(guidance=[1.0])).validate(model, CaptionedData(), verbose=False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PromptLogger([]), "PromptLogger.prompts is empty"),
        (lambda: PromptLogger(guidance=[]), "PromptLogger.guidance is empty"),
        (lambda: PromptLogger(num_samples=0), r"PromptLogger.num_samples must be at least \d, got 0"),
        (lambda: CascadeLogger(num_prompts=0), r"CascadeLogger.num_prompts must be at least \d, got 0"),
        (lambda: UpsamplingLogger(0), r"UpsamplingLogger.num_samples must be at least \d, got 0"),
        (
            lambda: AttentionMapLogger(every_n_validations=0),
            r"AttentionMapLogger.every_n_validations must be at least \d, got 0",
        ),
    ],
)
def test_invalid_settings_raise(build: Callable, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
