"""Classifier guidance against the closed form of two Gaussians."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion import (
    DDPM,
    ClassifierGuidance,
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    NoisyClassifier,
    Objective,
    Sampling,
)
from darkroom.lightning_modules.diffusion.classifier.guidance import ClassifierGuide
from darkroom.lightning_modules.diffusion.objective.parameterization import Parameterization, Prediction
from tests.conftest import CONFIGS
from tests.contracts.generation import GenerationContract
from tests.contracts.module import trainer
from tests.lightning_modules.diffusion.test_ddpm import network

MEANS, DEVIATION, SHAPE = torch.tensor([-0.4, 0.5]), 0.1, (1, 2, 2)


class ExactClassifier(nn.Module):
    """Classifier of the classes N(mean, deviation^2) with noise, equally frequent: logits log p(x_t | y)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule, self.weight = schedule, nn.Parameter(torch.ones(()))

    def moments(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = torch.tensor([self.schedule.at(time) for time in t.tolist()])
        alpha, sigma = values[:, 0, None], values[:, 1, None]
        return alpha, sigma, alpha * MEANS, alpha**2 * DEVIATION**2 + sigma**2

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        _, _, means, variance = self.moments(t)
        squares = (x.flatten(1)[:, None] - means[..., None]).square().sum(2)
        return -self.weight * squares / (2 * variance)


class ExactDenoiser(ExactClassifier):
    """Exact prediction for a mixture of the two classes, or with labels of one of them."""

    def __init__(self, schedule: NoiseSchedule, prediction: Prediction) -> None:
        super().__init__(schedule)
        self.prediction = prediction

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor | None = None) -> Tensor:
        alpha, sigma, means, variance = self.moments(t)
        kept = (alpha * DEVIATION**2 / variance)[..., None]
        each = MEANS[:, None] + kept * (x.flatten(1)[:, None] - means[..., None])  # E[x_0 | x_t, y], (B, 2, D)
        weights = super().forward(x, t).softmax(1)
        if label is not None:
            one, null = nn.functional.one_hot(label.clamp(max=1), 2).to(weights), (label == 2)[:, None]
            weights = torch.where(null, weights, one)
        x0 = (weights[..., None] * each).sum(1).view_as(x)
        alpha, sigma = alpha[..., None, None], sigma[..., None, None]
        return self.weight * Parameterization(self.prediction).target(x0, (x - alpha * x0) / sigma, alpha, sigma)


def classifier(**kwargs: Any) -> NoisyClassifier:
    schedule = LinearSchedule(200)
    options = {"network": ExactClassifier(schedule), "num_classes": 2, "image_shape": SHAPE, "schedule": schedule}
    return NoisyClassifier(**{**options, **kwargs})


def guided(prediction: Prediction = "eps", scale: float = 1.0, conditional: bool = False, **sampling: Any) -> DDPM:
    """Return a model with the exact denoiser, guided by the exact classifier."""
    schedule = LinearSchedule(200)
    return DDPM(
        SHAPE,
        2,
        ExactDenoiser(schedule, prediction),
        conditional=conditional,
        schedule=schedule,
        objective=Objective(prediction=prediction),
        sampling=Sampling(**{"steps": 50, "threshold": "none", **sampling}),
        classifier=ClassifierGuidance(classifier(), scale),
        ema=None,
    ).eval()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("t", [0, 30, 57.5, 199])
def test_scale_1_gives_the_conditional_prediction_by_bayes(prediction: Prediction, t: float) -> None:
    model, labels, x = guided(prediction), torch.tensor([0, 1, 1, 0]), torch.randn(4, *SHAPE)
    with torch.no_grad():
        found = model.wrap_network({}, shift=model.classifier_shift(labels))(x, t).x0
        expected = model.wrap_network({"label": labels})(x, t).x0
        unconditional = model.wrap_network({})(x, t).x0
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    if t == 199:
        assert not torch.allclose(unconditional, expected, atol=0.1)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_scale_moves_noise_by_equation_14_and_mean_by_algorithm_1(scale: float) -> None:
    model, labels, x, t = guided(scale=scale), torch.tensor([0, 1, 1]), torch.randn(3, *SHAPE), 120
    (alpha, sigma), (alpha_prev, _) = model.schedule.at(t), model.schedule.at(t - 1)
    gradient = model.guide.gradient(x, t, labels)
    with torch.no_grad():
        plain, moved = (model.wrap_network({}, shift=s)(x, t).x0 for s in (None, model.classifier_shift(labels)))
    eps, eps_moved = ((x - alpha * x0) / sigma for x0 in (plain, moved))
    torch.testing.assert_close(eps_moved, eps - sigma * scale * gradient, atol=1e-4, rtol=1e-4)
    beta = 1 - (alpha / alpha_prev) ** 2
    of_mean = alpha_prev * beta / sigma**2 * (moved - plain)  # the factor of x_0 in the mean
    torch.testing.assert_close(of_mean, beta / (1 - beta) ** 0.5 * scale * gradient, atol=1e-5, rtol=1e-3)


def test_gradient_is_that_of_log_probability() -> None:
    model, labels, x = guided(), torch.tensor([0, 1, 0]), torch.randn(3, *SHAPE, dtype=torch.float64)
    _, _, means, variance = model.network.moments(torch.tensor([150]))
    probability = model.guide.network(x.float(), torch.full((3,), 150)).softmax(1).double()
    pull = means[0] / variance[0]  # of each class
    expected = (pull[labels] - (probability * pull).sum(1))[:, None, None, None].expand_as(x)
    torch.testing.assert_close(model.guide.gradient(x, 150, labels), expected.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver++", "heun"])
def test_samples_have_mean_and_covariance_of_their_class(sampler: str) -> None:
    model = guided(sampler=sampler, steps=50 if sampler in ("dpm_solver++", "heun") else 200)  # others: of first order
    labels = torch.arange(2000) % 2
    samples = model.sample(2000, labels=labels, generator=torch.Generator().manual_seed(0)).flatten(1)
    for label, mean in enumerate(MEANS):
        some = samples[labels == label]
        torch.testing.assert_close(some.mean(0), mean.expand(4), atol=0.01, rtol=0)
        torch.testing.assert_close(some.T.cov(), DEVIATION**2 * torch.eye(4), atol=0.1 * DEVIATION**2, rtol=0.15)
    labels = labels[:400]
    plain = model.sample(400, labels=labels, classifier_scale=0.0, generator=torch.Generator().manual_seed(0))
    assert (plain[labels == 0] > 0).float().mean() == pytest.approx(0.5, abs=0.15)  # both classes


def test_guidance_works_in_inference_mode_and_bfloat16_autocast() -> None:
    model, labels = guided(steps=4), torch.tensor([0, 1])
    expected = model.sample(2, labels=labels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        labels = labels.clone()
        found = model.sample(2, labels=labels, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            gradient = model.guide.gradient(torch.randn(2, *SHAPE), 100, labels)
    assert torch.equal(found, expected)
    assert gradient.dtype == torch.float32


class MovedClassifier(ExactClassifier):
    """Classifier whose move to a device makes new parameters, as a move from the CPU to a GPU does."""

    def to(self, device: torch.device) -> "MovedClassifier":
        return self.double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.weight * super().forward(x, t)  # saves the weight for the gradient


def test_first_move_in_inference_mode_keeps_gradients() -> None:
    schedule, x, labels = LinearSchedule(200), torch.randn(2, *SHAPE), torch.tensor([0, 1])
    guidance = ClassifierGuidance(classifier(network=MovedClassifier(schedule)))
    guide = ClassifierGuide(guidance, SHAPE, schedule, 2)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with torch.inference_mode():
            gradient = guide.gradient(x, 100, labels)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    assert guide.network.weight.dtype == torch.float64
    torch.testing.assert_close(gradient, guided().guide.gradient(x, 100, labels))


def test_given_classifier_is_not_changed() -> None:
    given = classifier().double().train()
    ClassifierGuide(ClassifierGuidance(given), SHAPE, LinearSchedule(200), None)
    assert given.network.weight.requires_grad
    assert given.network.weight.dtype == torch.float64
    assert given.network.training


def test_guidance_adds_to_classifier_free_guidance() -> None:
    model, labels, x = guided(conditional=True, guidance=2.0), torch.tensor([0, 1]), torch.randn(2, *SHAPE)
    shift, condition = model.classifier_shift(labels), {"label": labels}
    with torch.no_grad():
        both, free = (model.wrap_network(condition, 2.0, shift=s)(x, 150).x0 for s in (shift, None))
    torch.testing.assert_close(both, free + shift(x, 150))
    assert model.sample(2, labels=labels).isfinite().all()


def test_guidance_is_active_in_its_interval() -> None:
    model, x = guided(guidance_interval=(0.25, 0.5)), torch.randn(2, *SHAPE)
    shift = model.classifier_shift(torch.tensor([0, 1]))
    assert [shift(x, t).any().item() for t in (49, 50, 99, 100)] == [False, True, True, False]


def test_classifier_is_not_part_of_the_model() -> None:
    model = guided()
    assert not any("guide" in name or "classifier" in name for name in model.state_dict())
    assert [name for name, _ in model.named_parameters()] == ["network.weight"]
    assert model.num_classes == 2
    assert model.make_condition({"image": torch.zeros(2, *SHAPE)}, torch.zeros(2, *SHAPE)) == {}  # needs no labels
    with pytest.raises(UsageError, match="needs labels"):
        model.sample(2)
    with pytest.raises(UsageError, match="--model.classifier null"):
        model.export_graphs(([0.5], [0.5]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (1, 4, 4)}, r"images of \(1, 4, 4\), the model has \(1, 2, 2\)"),
        ({"schedule": CosineSchedule(200)}, "another schedule, a CosineSchedule of 200 steps; set model.schedule"),
        ({"schedule": LinearSchedule(100)}, "another schedule"),
        ({"num_classes": 3}, "has 3 classes, but the model has 2"),
    ],
)
@pytest.mark.parametrize("conditional", [True, False])
def test_classifier_of_another_model_is_refused(changes: dict[str, Any], message: str, conditional: bool) -> None:
    schedule = LinearSchedule(200)
    options = {"network": ExactDenoiser(schedule, "eps"), "schedule": schedule, "conditional": conditional}
    guidance = ClassifierGuidance(classifier(**changes))
    with pytest.raises(UsageError, match=rf"model.classifier.ckpt_path: the classifier .*{message}"):
        DDPM(SHAPE, 2, classifier=guidance, **options)


def test_classifier_of_other_data_is_refused(tmp_path: Path) -> None:
    contract = TestGuidedDDPM()
    options = {"sampling": Sampling(steps=3), "bpd_samples": 0, **contract.object_arguments()}
    model = DDPM(contract.image_shape, **options)  # unconditional: its number of classes is not set
    with pytest.raises(UsageError, match="the classifier has 5 classes, but the data have 8"):
        trainer(tmp_path).fit(model, ShapesImages(label="colour", side=16, train_size=4, num_workers=0))


def test_invalid_scales_and_checkpoints_raise() -> None:
    for scale in (-1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="model.classifier.scale must be at least 0"):
            ClassifierGuidance("best.ckpt", scale)
    with pytest.raises(UsageError, match="classifier_scale must be at least 0"):
        guided().sample(1, labels=[0], classifier_scale=-1.0)
    with pytest.raises(UsageError, match="has no classifier; set model.classifier.ckpt_path"):
        DDPM(SHAPE, 2, ExactDenoiser(LinearSchedule(), "eps"), ema=None).sample(1, classifier_scale=2.0)
    with pytest.raises(
        UsageError,
        match=r"model.classifier.ckpt_path is absent.ckpt, .* train a NoisyClassifier .*; or set model.classifier to null",
    ):
        DDPM(SHAPE, classifier=ClassifierGuidance("absent.ckpt"))
    with pytest.raises(UsageError, match="must be a NoisyClassifier, got a Identity"):
        DDPM(SHAPE, classifier=ClassifierGuidance(nn.Identity()))


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestGuidedDDPM(GenerationContract):
    """Unconditional DDPM that a classifier guides."""

    num_classes = 5
    test_overfits_one_batch = None  # trains as TestDDPM does
    test_exported_parts_agree_with_model = test_exported_files_predict_as_model = None  # refused

    def build(self, **kwargs: Any) -> DDPM:
        torch.manual_seed(0)
        options = {"sampling": Sampling(steps=3), "bpd_samples": 0}
        return DDPM(self.image_shape, 5, **options, **self.object_arguments(), **kwargs)

    def object_arguments(self) -> dict[str, Any]:
        schedule = CosineSchedule(20)
        guide = NoisyClassifier(NoisyLogits(), num_classes=5, image_shape=self.image_shape, schedule=CosineSchedule(20))
        return {"network": network(), "schedule": schedule, "classifier": ClassifierGuidance(guide, 2.0)}


class NoisyLogits(nn.Module):
    """Linear classifier of images of 3 x 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, 3 * 16 * 16, generator=generator) / 10)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.mark.slow
def test_command_line_guides_a_trained_model(darkroom: Callable) -> None:
    """Check that a classifier of the command line guides a DDPM that was trained without it."""
    small = ("--data.train_size", 8, "--data.val_size", 8, "--data.test_size", 8, "--data.num_workers", 0)
    fast = ("--data.batch_size", 4, "--trainer.max_steps", 1, "--trainer.accelerator", "cpu")
    folder = CONFIGS / "diffusion/guidance"
    narrow = ("--model.network.base_channels", 4, "--model.network.head_channels", 4)
    outcome = darkroom("fit", "--config", folder / "noisy_classifier.yaml", *small, *fast, *narrow)
    assert outcome.code == 0, outcome.err
    trained = Path("runs/noisy_classifier/0/checkpoints/last.ckpt")
    narrow = ("--model.network.base_channels", 4, "--model.scores", "null", "--model.sampling.steps", 2)
    plain = Path("plain.yaml")
    plain.write_text("trainer: {callbacks: null}")
    base = ("--config", folder / "classifier_guidance.yaml", *narrow, "--config", plain)
    outcome = darkroom("fit", *base, *small, *fast, "--model.classifier", "null", "--experiment", "it")
    assert outcome.code == 0, outcome.err
    prompts = ("--data", "Prompts", "--data.labels", "[0, 39]", "--trainer.callbacks+=SampleWriter")
    guide = ("--model.classifier.ckpt_path", trained, "--model.classifier.scale", 3)
    outcome = darkroom("predict", *base, *prompts, *guide, "--experiment", "it", "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    assert len(list(Path("runs/it/0/predictions").glob("0*.png"))) == 2
