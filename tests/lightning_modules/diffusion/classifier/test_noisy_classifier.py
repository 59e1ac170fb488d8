"""NoisyClassifier: training, evaluation and its default network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F

from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion import EncoderClassifier, LinearSchedule, NoiseSchedule, NoisyClassifier
from darkroom.lightning_modules.diffusion.blocks import Attention, Block
from darkroom.lightning_modules.diffusion.classifier.network import AttentionPool
from darkroom.lightning_modules.layers.ema import EMAOptions
from darkroom.lightning_modules.optimizers import Optim
from tests.contracts.module import trainer

SHAPE = (3, 16, 16)


def network(**kwargs: Any) -> EncoderClassifier:
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,)}
    return EncoderClassifier(SHAPE, **{"num_classes": 8, **small, **kwargs})


def build(**kwargs: Any) -> NoisyClassifier:
    torch.manual_seed(0)
    return NoisyClassifier(network(), 8, SHAPE, **{"schedule": LinearSchedule(50), **kwargs})


def data(**kwargs: Any) -> ShapesImages:
    sizes = {"train_size": 8, "val_size": 5, "test_size": 5, "batch_size": 4, "num_workers": 0, "side": 16}
    return ShapesImages(**{**sizes, "label": "colour", **kwargs})


@pytest.mark.parametrize("resampling", ["conv", "residual"])
@pytest.mark.parametrize("head_channels", [None, 4])
def test_every_parameter_of_network_gets_a_gradient(resampling: Any, head_channels: int | None) -> None:
    built = network(resampling=resampling, head_channels=head_channels)
    for module in built.modules():  # zero at the start
        if isinstance(module, Block | Attention):
            nn.init.normal_((module.conv2 if isinstance(module, Block) else module.out).weight)
    x, t = torch.randn(3, *SHAPE, requires_grad=True), torch.tensor([0, 20, 49])
    logits = built(x, t)
    assert logits.shape == (3, 8)
    (logits * torch.randn(3, 8)).sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in built.parameters())
    assert x.grad is not None
    assert x.grad.flatten(1).any(1).all()
    assert not torch.allclose(logits, built(x, t.flip(0)))  # depends on the time
    torch.testing.assert_close(built(x, t.float()), logits)


def test_attention_pool_attends_in_float32_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, types = F.scaled_dot_product_attention, list[torch.dtype]()
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, *a, **k: types.append(q.dtype) or attention(q, *a, **k)
    )
    pool = AttentionPool(8, (4, 4), 3, head_channels=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool(torch.randn(2, 8, 4, 4)).dtype == torch.bfloat16
    assert types == [torch.float32]


@pytest.mark.parametrize("label", [-1, 8])
def test_labels_out_of_range_raise(tmp_path: Path, label: int) -> None:
    model, batch = build(), {"image": torch.randn(2, *SHAPE), "label": torch.tensor([0, label])}
    with pytest.raises(UsageError, match=rf"data.label: labels must be from 0 to 7, .* got {label}"):
        model.training_step(batch, 0)
    small = NoisyClassifier(network(num_classes=2), 2, SHAPE)
    with pytest.raises(UsageError, match="data.label: labels must be from 0 to 1"):
        trainer(tmp_path).validate(small, data(), verbose=False)


def test_metrics_are_named_by_stage_and_do_not_depend_on_batch_size(tmp_path: Path) -> None:
    model, fitting = build(ema=EMAOptions(0.9)), trainer(tmp_path, log_every_n_steps=1)
    fitting.fit(model, data())
    names = set(fitting.callback_metrics)
    assert {
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "val/mean_accuracy",
        "val/accuracy/red",
    } <= names
    assert model.monitor[0] in names
    values = []
    for size in (1, 3, 5):
        testing = trainer(tmp_path)
        testing.test(model, data(eval_batch_size=size), verbose=False)
        values.append(testing.callback_metrics)
    for other in values[1:]:
        torch.testing.assert_close(other["test/loss"], values[0]["test/loss"])
        assert other["test/accuracy"] == values[0]["test/accuracy"]


def test_evaluation_and_prediction_use_ema_weights(tmp_path: Path) -> None:
    model = build(ema=EMAOptions(0.9))
    trainer(tmp_path, limit_val_batches=0).fit(model, data())
    assert model.ema.updates == 2
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.fill_(torch.nan)
    probabilities = model.eval().predict_step({"image": torch.randn(3, *SHAPE)})
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    def fit(epochs: int, name: str, path: Path | None = None) -> dict[str, Any]:
        saving = ModelCheckpoint(tmp_path, name, save_on_train_epoch_end=True)
        kwargs = {"max_epochs": epochs, "enable_checkpointing": True, "callbacks": [saving, ExactResume()]}
        torch.manual_seed(0)
        trainer(tmp_path, **kwargs).fit(build(), data(), ckpt_path=path, weights_only=True)
        return torch.load(tmp_path / f"{name}.ckpt", weights_only=True)

    whole, _, resumed = fit(2, "whole"), fit(1, "half"), fit(2, "resumed", tmp_path / "half.ckpt")
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_trains_in_half_precision(tmp_path: Path, precision: str) -> None:
    fitting = trainer(tmp_path, precision=precision, log_every_n_steps=1)
    fitting.fit(build(ema=EMAOptions(0.9)), data())
    assert all(fitting.callback_metrics[f"{stage}/loss"].isfinite() for stage in ("train", "val"))


@pytest.mark.slow  # trains 200 steps
def test_overfits_one_batch(tmp_path: Path) -> None:
    """Check training on one batch with little noise, where the class is visible."""
    optim = Optim(lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True))
    model = build(schedule=NoiseSchedule(torch.full((50,), 1e-3)), optim=optim)
    fitting = trainer(tmp_path, max_steps=200, max_epochs=-1, limit_val_batches=0, log_every_n_steps=1)
    fitting.fit(model, data(train_size=4))
    assert fitting.callback_metrics["train/loss"] < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "model.num_classes must be at least 2, got 1; the data must have labels"),
        ({"image_shape": (16, 16)}, "model.image_shape must be"),
        ({"network": nn.Linear(2, 2), "ema": {"decay": 2.0}}, "model.ema.decay"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NoisyClassifier(**{"num_classes": 3, "image_shape": SHAPE, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "model.network.num_classes must be at least 2"),
        ({"attention": (5,)}, "model.network.attention must be sides of maps"),
        ({"multipliers": (1,) * 6}, "model.network.multipliers must be at most 5"),
        ({"head_channels": 5}, "model.network.head_channels must divide"),
    ],
)
def test_invalid_networks_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EncoderClassifier(**{"image_shape": SHAPE, "num_classes": 4, "base_channels": 8, **arguments})


def test_other_data_and_outputs_raise(tmp_path: Path) -> None:
    for wrong, message in (
        ({"mean": [0.0] * 3, "std": [1.0] * 3}, r"NoisyClassifier needs images in \[-1.0, 1.0\].*data.mean"),
        ({"side": 32}, "model.image_shape"),
    ):
        with pytest.raises(UsageError, match=message):
            trainer(tmp_path).fit(build(), data(**wrong))
    with pytest.raises(UsageError, match=r"images must have the shape \(B, 3, 16, 16\)"):
        network()(torch.randn(1, 3, 32, 32), torch.tensor([3]))

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    model = NoisyClassifier(Wrong(), 8, SHAPE)
    with pytest.raises(UsageError, match=r"Wrong must return logits \(2, 8\), .* got \(2, 768\)"):
        model(torch.randn(2, *SHAPE), torch.tensor([0, 1]))
