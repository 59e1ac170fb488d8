"""Imagen: stages that are trained separately and sample as a cascade."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.datamodules.shapes.captions import ShapesCaptions
from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion import (
    CosineSchedule,
    DenoisingUNet,
    EfficientUNet,
    ImagenCascade,
    SuperResolution,
    TextToImage,
)
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import Step
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder, Text, TextEncoder
from darkroom.lightning_modules.layers.ema import EMAOptions
from tests.contracts.generation import CountingScores, GenerationContract
from tests.contracts.module import trainer

CAPTIONS = ["a red circle", "a blue star", "a small green cross"]


def words() -> LearnedTextEncoder:
    return LearnedTextEncoder(ShapesCaptions().words, dim=8, layers=1, heads=2)


def denoiser(**kwargs: Any) -> DenoisingUNet:
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "dropout": 0.0, "text_dim": 8}
    return DenoisingUNet((3, 16, 16), **{**small, **kwargs})


def efficient(side: int = 16, **kwargs: Any) -> EfficientUNet:
    small = {"channels": (8, 16), "blocks": (1, 1), "head_channels": 8, "text_dim": 8}
    return EfficientUNet((3, side, side), **{**small, **kwargs})


def base(**kwargs: Any) -> TextToImage:
    small = {"network": denoiser(), "schedule": CosineSchedule(50), "sampling": Sampling(steps=2)}
    return TextToImage(words(), (3, 16, 16), **{**small, **kwargs})


def stage(side: int = 32, **kwargs: Any) -> SuperResolution:
    small = {"network": efficient(side, text_dim=None), "schedule": CosineSchedule(50), "sampling": Sampling(steps=2)}
    return SuperResolution((3, side, side), **{"factor": 2, **small, **kwargs})


def randomize_outputs(model: nn.Module) -> Any:
    """Randomize the zero-initialized output layers of a model."""
    torch.manual_seed(1)
    for network in model.networks():
        nn.init.normal_(network.head[-1].weight, std=0.1)
        for module in network.modules():
            if hasattr(module, "query_key_value"):
                nn.init.normal_(module.out.weight, std=0.3)
    return model


class CaptionContract(GenerationContract):
    """Contract of text-to-image methods, which have neither latents nor labels."""

    test_reconstruction_is_decoded_encoding = test_interpolation_starts_and_ends_at_reconstructions = None
    test_invalid_numbers_of_samples_raise = test_labels_are_required_only_by_conditional_methods = None

    def data(self, **kwargs: Any) -> ShapesCaptions:
        sizes = {"train_size": 8, "val_size": 8, "test_size": 8, "batch_size": 4, "num_workers": 0, "side": 16}
        return ShapesCaptions(**{**sizes, **kwargs})

    def prompts(self, n: int) -> dict[str, Any]:
        return {"caption": CAPTIONS[:n]}

    def test_data_without_captions_raise(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no 'caption'"):
            trainer(tmp_path).fit(self.build(), GenerationContract().data())


class TestTextToImage(CaptionContract):
    overfit_loss = ("loss", 0.35)

    def build(self, **kwargs: Any) -> TextToImage:
        torch.manual_seed(0)
        sampling, ema = Sampling(steps=3, guidance=2.0), EMAOptions(decay=0.9)
        options = {"image_shape": self.image_shape, "sampling": sampling, "ema": ema}
        return TextToImage(**{**options, **self.object_arguments(), **kwargs})

    def object_arguments(self) -> dict[str, Any]:
        return {"text": words(), "network": denoiser(), "schedule": CosineSchedule(50)}

    def generate(self, model: TextToImage, n: int, seed: int = 0) -> Tensor:
        return model.sample(CAPTIONS[:n], generator=torch.Generator().manual_seed(seed))

    def test_image_shape_of_two_numbers_raises(self) -> None:
        with pytest.raises(UsageError, match=r"model.image_shape must be .*got \(16, 16\)"):
            self.build(image_shape=(16, 16))


class TestSuperResolution(CaptionContract):
    test_overfits_one_batch = None  # trains as TestTextToImage does
    test_predictions_do_not_depend_on_batch_size = None  # its inputs are images

    def build(self, **kwargs: Any) -> SuperResolution:
        torch.manual_seed(0)
        sampling, ema = Sampling(steps=3, guidance=2.0), EMAOptions(decay=0.9)
        options = {"image_shape": self.image_shape, "factor": 2, "sampling": sampling, "ema": ema}
        return SuperResolution(**{**options, **self.object_arguments(), **kwargs})

    def object_arguments(self) -> dict[str, Any]:
        return {"text": words(), "network": efficient(), "schedule": CosineSchedule(50)}

    def to_predict(self, seeds: list[int]) -> dict[str, Any]:
        return {"image": self.images(len(seeds)), "caption": CAPTIONS[: len(seeds)]}

    def generate(self, model: SuperResolution, n: int, seed: int = 0) -> Tensor:
        low = torch.linspace(-1, 1, n * 3 * 64).view(n, 3, 8, 8)
        return model.sample(CAPTIONS[:n], low, generator=torch.Generator().manual_seed(seed))

    def test_image_shape_of_two_numbers_raises(self) -> None:
        with pytest.raises(UsageError, match=r"model.image_shape must be .*got \(16, 16\)"):
            self.build(image_shape=(16, 16))


# --- the text ---------------------------------------------------------------------------------------------------------


def test_captions_are_dropped_at_stated_rate() -> None:
    model = base(text_dropout=0.25)
    condition = model.make_condition({"caption": CAPTIONS[:1] * 2000}, torch.zeros(2000, 3, 16, 16))
    there = condition["text_mask"].any(1)
    assert there.float().mean() == pytest.approx(0.75, abs=0.04)
    assert condition["text_mask"][there].all()
    assert condition["text"][~there].abs().max() == 0
    assert model.eval().make_condition({"caption": CAPTIONS}, torch.zeros(3, 3, 16, 16))["text_mask"].any(1).all()


def test_guidance_zero_is_unconditional() -> None:
    model, generator = randomize_outputs(base()), [torch.Generator() for _ in range(2)]
    samples = [
        model.sample(texts, guidance=0.0, generator=_seeded(generator)) for texts in (CAPTIONS[:2], CAPTIONS[1:])
    ]
    assert torch.equal(*samples)
    condition = model.sample(CAPTIONS[:2], guidance=1.0, generator=_seeded(generator))
    assert not torch.allclose(condition, samples[0], atol=1e-3)


def _seeded(generators: list[torch.Generator]) -> list[torch.Generator]:
    return [generator.manual_seed(index) for index, generator in enumerate(generators)]


def test_padding_tokens_do_not_change_samples() -> None:
    """Check that the number of padding tokens has no effect."""
    model = randomize_outputs(base(sampling=Sampling(steps=2, guidance=3.0)))
    alone, _ = (model.sample(CAPTIONS[:1], generator=_seeded([torch.Generator()])) for _ in range(2))
    beside = model.sample([CAPTIONS[0], " ".join(CAPTIONS)], generator=_seeded([torch.Generator(), torch.Generator()]))
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-5)


class Frozen(TextEncoder):
    """Text encoder whose output depends only on the length of a caption."""

    def forward(self, captions: list[str]) -> Text:
        tokens = torch.tensor([[[float(len(caption))] * 8] for caption in captions])
        return Text(tokens, torch.ones(len(captions), 1, dtype=torch.bool))

    def tokens_of(self, caption: str) -> list[str]:
        return [caption]


def test_frozen_text_encoder_is_not_saved_and_trained_one_has_ema() -> None:
    frozen = TextToImage(Frozen(8, 4), (3, 16, 16), denoiser())
    assert not any(name.startswith("reader") for name in frozen.state_dict())
    assert frozen.text is frozen.reader.encoder
    learning = base(ema=EMAOptions(decay=0.5))
    with torch.no_grad():
        learning.reader.encoder.embedding.weight.fill_(3.0)
    for average, module in learning.ema_pairs():
        average.update(module)
    assert learning.text is not learning.reader.encoder
    assert 0 < learning.text.embedding.weight.mean() <= 3


def test_word_maps_require_text_attention() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor, *, text: Tensor, text_mask: Tensor) -> Tensor:
            return self.weight * x

    with pytest.raises(UsageError, match="Plain has no cross-attention to words"):
        TextToImage(words(), (3, 16, 16), Plain(), sampling=Sampling(steps=2)).word_maps(CAPTIONS)


def test_word_maps_match_caption_and_do_not_change_samples() -> None:
    model = randomize_outputs(base())
    images, message, maps = model.word_maps(CAPTIONS, generator=torch.Generator().manual_seed(0))
    assert images.shape == (3, 3, 16, 16)
    assert message == [caption.split() for caption in CAPTIONS]
    assert [part.shape for part in maps] == [(3, 16, 16), (3, 16, 16), (4, 16, 16)]
    assert all(0 <= part.min() <= part.sum(0).max() <= 1 for part in maps)  # the rest of the attention is on pixels
    plain = model.sample(CAPTIONS, guidance=1.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(images, plain)  # recording has no effect


# --- super-resolution -------------------------------------------------------------------------------------------------


class RecordingNetwork(nn.Module):
    """Network that records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shown = nn.Parameter(torch.ones(())), []

    def forward(self, x: Tensor, t: Tensor, *, low: Tensor, low_t: Tensor) -> Tensor:
        self.shown.append((x.shape, low, low_t))
        return self.weight * x


def test_low_resolution_noise_level_is_passed_to_network() -> None:
    """The noise is that of the small image, whose pixels are every third of the upsampled one."""
    network = RecordingNetwork()
    model = SuperResolution((3, 48, 48), 3, network=network, ema=None, schedule=CosineSchedule(1000))
    x = torch.full((64, 3, 48, 48), 0.5)
    condition = model.make_condition({}, x)
    alpha, sigma = (values.flatten() for values in model.schedule.alpha_sigma(condition["low_t"]))
    noise = (condition["low"][..., 1::3, 1::3] - 0.5 * alpha.view(-1, 1, 1, 1)).flatten(1).std(1)
    assert condition["low_t"].float().mean() == pytest.approx(500, abs=120)
    torch.testing.assert_close(noise, sigma, atol=0.03, rtol=0.06)
    low = torch.full((2, 3, 16, 16), 0.5)
    for level in (0.0, 0.3):
        model.sample(None, low, augmentation=level, steps=1)
        _, seen, low_t = network.shown[-1]
        assert low_t.tolist() == [int(level * 999)] * 2
        assert seen[..., 1::3, 1::3].std() == pytest.approx(model.schedule.at(int(level * 999))[1], abs=0.02)
    limited = SuperResolution((3, 48, 48), 3, network=network, noise_levels=(0.1, 0.2), schedule=CosineSchedule(1000))
    assert 99 <= limited.make_condition({}, x)["low_t"].min() <= limited.make_condition({}, x)["low_t"].max() <= 200


def test_crops_are_for_training_only(tmp_path: Path) -> None:
    network = RecordingNetwork()
    sampling = Sampling(steps=1)
    model = SuperResolution((3, 32, 48), 4, network=network, crop=16, ema=None, sampling=sampling)
    image = torch.arange(32 * 48.0).view(1, 1, 32, 48).expand(40, 3, -1, -1) / 1536
    crops = model.target_images({"image": image})
    assert crops.shape == (40, 3, 16, 16)
    assert len({crop[0, 0, 0].item() for crop in crops}) > 20
    torch.testing.assert_close(crops[:, 0, 1, 0] - crops[:, 0, 0, 0], torch.full((40,), 48 / 1536))
    assert model.make_condition({}, crops)["low"].shape == (40, 3, 16, 16)
    assert len({crop[0, 0, 0].item() for crop in model.eval().target_images({"image": image})}) == 1
    assert model.sample(None, torch.zeros(2, 3, 8, 12)).shape == (2, 3, 32, 48)


@pytest.mark.parametrize("reduction", ["area", "bilinear", "bicubic"])
def test_downsampling_and_upsampling_keep_smooth_images(reduction: str) -> None:
    model = stage(reduction=reduction)
    ramp = torch.linspace(-0.9, 0.9, 32).expand(1, 3, 32, 32)
    low = model.reduced(ramp)
    assert low.shape == (1, 3, 16, 16)
    assert model.low_shape == (3, 16, 16)
    torch.testing.assert_close(model.upsampled(low)[..., 4:-4], ramp[..., 4:-4], atol=0.02, rtol=0)


def test_residual_network_starts_as_bicubic_upsampling() -> None:
    network = efficient(32, text_dim=None, residual=True)
    model = stage(network=network, objective=Objective(prediction="x0"), augmentation=0.0)
    low = torch.rand(2, 3, 16, 16) - 0.5
    samples = model.sample(None, low)
    sigma = model.schedule.at(0)[1]  # of the lowest noise level of the small image, which upsampling smooths
    assert 0 < (samples - model.upsampled(low)).std() < sigma


def test_predicts_from_downsampled_images() -> None:
    model, image = stage(), torch.rand(2, 3, 32, 32) * 2 - 1
    assert model.predict_step({"image": image}).shape == (2, 3, 32, 32)
    with pytest.raises(UsageError, match="ImagenCascade"):
        model.predict_step({"caption": CAPTIONS[:1], "seed": torch.tensor([1])})


# --- the cascade ------------------------------------------------------------------------------------------------------


def test_cascade_samples_stage_by_stage() -> None:
    cascade = randomize_outputs(ImagenCascade(base(), [stage(32), stage(64)]))
    steps: list[Step] = []
    samples = cascade.sample(CAPTIONS, stages=True, generator=torch.Generator().manual_seed(0), callback=steps.append)
    assert [tuple(images.shape) for images in samples] == [(3, 3, 16, 16), (3, 3, 32, 32), (3, 3, 64, 64)]
    assert len(steps) == 6
    last = cascade.sample(CAPTIONS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(last, samples[-1])
    steps.clear()
    cascade.sample(CAPTIONS, guidance=[3.0, 1.0, 1.0], steps=[4, 1, 1], callback=steps.append)
    assert [step.count for step in steps] == [4] * 4 + [1, 1]
    assert not any(parameter.requires_grad for parameter in cascade.parameters())


def test_cascade_predictions_do_not_depend_on_batch_size() -> None:
    cascade = randomize_outputs(ImagenCascade(base(), [stage(32)], augmentation=[0.2]))
    batch = {"seed": torch.tensor([5, 17, 2**40]), "caption": CAPTIONS}
    together = cascade.predict_step(batch)
    for i in range(3):
        alone = cascade.predict_step({key: value[i : i + 1] for key, value in batch.items()})
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)
    with pytest.raises(UsageError, match="data.labels"):
        cascade.predict_step({"seed": torch.tensor([5]), "label": torch.tensor([1])})


def test_metrics_use_precision_of_trainer(tmp_path: Path) -> None:
    """Check the precision of the Trainer, which Lightning passes to only some of the stages."""
    samples: dict[str, Tensor] = {}

    class Scores(CountingScores):
        def compute(self, stage: str, module: ImagenCascade) -> dict[str, float]:
            samples["score"] = module.sample(CAPTIONS, generator=torch.Generator().manual_seed(0))
            return {}

    cascade = randomize_outputs(ImagenCascade(base(), [stage(32)], scores=Scores(lambda *args: None)))
    data = TestTextToImage().data(side=32)
    trainer(tmp_path, precision="bf16-mixed").test(cascade, data, verbose=False)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = cascade.sample(CAPTIONS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples["score"], predicted)


def test_mismatched_stages_raise(tmp_path: Path) -> None:
    for stages, message in (
        ((base(), [stage(64)]), r"model.super_resolutions\[0\] enlarges .*\(3, 32, 32\).*\(3, 16, 16\)"),
        ((stage(32), []), "model.base must be a TextToImage, got a SuperResolution"),
        ((base(), [base()]), r"model.super_resolutions\[0\] must be a SuperResolution, got a TextToImage"),
        (("nowhere.ckpt", []), "model.base is nowhere.ckpt, which does not exist"),
    ):
        with pytest.raises(UsageError, match=message):
            ImagenCascade(*stages)
    for settings, message in (
        ({"guidance": [2.0]}, "model.guidance has 1 values for 2 stages"),
        ({"guidance": [2.0, 8.0]}, r"model.guidance\[1\] is 8.0, but model.text is null"),
        ({"steps": [2, 51]}, r"model.steps\[1\] must be .*at most the schedule's 50 .*got 51"),
        ({"augmentation": [3.0]}, "model.augmentation must be .*got 3.0"),
    ):
        with pytest.raises(UsageError, match=message):
            ImagenCascade(base(), [stage(32)], **settings)
    with pytest.raises(UsageError, match="cannot be trained"):
        trainer(tmp_path).fit(ImagenCascade(base()), TestTextToImage().data())
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UsageError, match="model.base .*broken.ckpt cannot be loaded"):
        ImagenCascade(str(tmp_path / "broken.ckpt"))


# --- invalid arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: base(text_dropout=1.0), "model.text_dropout must be in .*got 1.0"),
        (
            lambda: base(text_dropout=0.0, sampling=Sampling(guidance=2.0)),
            "model.sampling.guidance is 2.0, but model.text_dropout is 0",
        ),
        (lambda: TextToImage(words(), (3, 16, 16), denoiser(text_dim=4)), "model.network.text_dim is 4.*8 numbers"),
        (lambda: TextToImage(words(), (3, 16, 16), RecordingNetwork()), "takes no text"),
        (lambda: stage(factor=3), "model.factor must be .*got 3"),
        (lambda: stage(crop=15), "model.crop must be .*got 15"),
        (lambda: stage(crop=10), "model.crop must be a multiple of 4, .*got 10"),
        (lambda: stage(text_dropout=1.0), "model.text_dropout must be in .*got 1.0"),
        (lambda: stage(augmentation=1.5), "model.augmentation must be .*got 1.5"),
        (lambda: stage(noise_levels=(0.5, 0.1)), "model.noise_levels"),
        (lambda: stage(sampling=Sampling(guidance=2.0)), "model.text is null"),
        (lambda: stage(objective=Objective(learned_variance=True)), "model.objective.learned_variance must be false"),
        (
            lambda: stage(network=efficient(32, text_dim=None, residual=True)),
            "model.objective.prediction must be x0, got eps",
        ),
        (lambda: stage(reduction="nearest"), "model.reduction must be one of area.*got 'nearest'"),
        (lambda: stage(network=denoiser(text_dim=None)), "takes no low"),
        (lambda: base().sample([]), "captions are empty"),
        (lambda: base().sample("a red circle"), "must be a list of strings"),
        (lambda: base().predict_step({"caption": CAPTIONS, "label": torch.arange(3)}), "data.labels"),
        (lambda: base().predict_step({"caption": CAPTIONS}), "--data.captions"),
        (lambda: stage().sample(None, torch.zeros(2, 1, 4, 4)), r"\(n, 3, h, w\)"),
        (
            lambda: TestSuperResolution().build().sample(["a"], torch.zeros(2, 3, 8, 8)),
            "captions must be one for each of 2 .*got 1",
        ),
    ],
)
def test_invalid_arguments_raise(build: Callable, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
