"""Technique: schedule, running mean of the loss, clipping and non-finite losses."""

import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.optim import lr_scheduler as schedulers

from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import TrainingError, UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.optimizers import Optim, clip_gradients
from darkroom.lightning_modules.segmentation import SemanticSegmentation
from tests.contracts.module import trainer
from tests.fakes.parts import NanAt, TinyNetwork


def data(**kwargs: Any) -> ShapesSegmentation:
    sizes = {"train_size": 24, "val_size": 4, "batch_size": 4, "num_workers": 0, "side": 16}
    return ShapesSegmentation(**{**sizes, **kwargs})


def model(**kwargs: Any) -> SemanticSegmentation:
    return SemanticSegmentation(TinyNetwork(6), num_classes=6, **kwargs)


class Record(Callback):
    """Record losses, logged values and learning rates of training steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.lrs: list[float] = []
        self.logged: list[float] = []

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(outputs["loss"].item())
        self.logged.append(trainer.callback_metrics.get("train/loss", torch.tensor(math.nan)).item())


class Samples(Callback):
    """Record the samples of training steps."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.paths += [str(image.sum().item()) for image in batch["image"]]


def test_logged_loss_is_mean_since_last_log(tmp_path: Path) -> None:
    record = Record()
    fitting = trainer(tmp_path, callbacks=[record], log_every_n_steps=2, limit_val_batches=0)
    fitting.fit(model(), data())
    losses = torch.tensor(record.losses)
    assert record.logged[1] == pytest.approx(losses[:2].mean().item(), rel=1e-5)
    assert record.logged[3] == pytest.approx(losses[2:4].mean().item(), rel=1e-5)


def test_short_epochs_log_at_their_end(tmp_path: Path) -> None:
    record = Record()
    fitting = trainer(tmp_path, callbacks=[record], log_every_n_steps=50, limit_val_batches=0)
    fitting.fit(model(), data())
    assert fitting.callback_metrics["train/loss"].item() == pytest.approx(sum(record.losses) / 6, rel=1e-5)


def test_logged_loss_includes_accumulated_batches(tmp_path: Path) -> None:
    record = Record()
    fitting = trainer(tmp_path, callbacks=[record], log_every_n_steps=1, accumulate_grad_batches=3, limit_val_batches=0)
    fitting.fit(model(), data())
    # Lightning hands out the loss divided by the number of accumulated batches
    assert record.logged[2] == pytest.approx(sum(record.losses[:3]), rel=1e-5)


def test_warmup_cosine_spans_the_fit(tmp_path: Path) -> None:
    record = Record()
    schedule, optimizer = partial(WarmupCosine, warmup=0.5), partial(torch.optim.SGD, lr=1.0)
    fitting = trainer(tmp_path, callbacks=[record], max_epochs=2, limit_val_batches=0)
    fitting.fit(model(optim=Optim(optimizer, schedule)), data())
    lrs = record.lrs  # twelve steps
    assert lrs == sorted(lrs[:6]) + sorted(lrs[6:], reverse=True)
    assert max(lrs) == pytest.approx(1, abs=0.1)
    assert 0 < lrs[0] <= 2 / 13
    assert 0 < lrs[-1] < 0.1


def test_warmup_cosine_requires_length_of_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_epochs or max_steps"):
        trainer(tmp_path, max_epochs=-1, max_time="00:00:00:01").fit(
            model(optim=Optim(lr_scheduler=WarmupCosine)), data()
        )


def test_longer_fit_resumes_at_rate_of_its_length(tmp_path: Path) -> None:
    optim = Optim(partial(torch.optim.SGD, lr=1.0), WarmupCosine)
    short = trainer(tmp_path, limit_val_batches=0)
    short.fit(model(optim=optim), data())
    short.save_checkpoint(tmp_path / "short.ckpt")
    whole, rest = Record(), Record()
    trainer(tmp_path, callbacks=[whole], max_epochs=2, limit_val_batches=0).fit(model(optim=optim), data())
    longer = trainer(tmp_path, callbacks=[rest], max_epochs=2, limit_val_batches=0)
    longer.fit(model(optim=optim), data(), ckpt_path=tmp_path / "short.ckpt")
    assert rest.lrs == pytest.approx(whole.lrs[6:])


def learning_rates(tmp_path: Path, scheduler: Any, interval: Any = None, epochs: int = 3, **kwargs: Any) -> list[float]:
    """Return the rate of each step of a fit with six steps an epoch."""
    record, optim = Record(), Optim(partial(torch.optim.SGD, lr=1.0), scheduler, interval)
    fitting = trainer(tmp_path, callbacks=[record], max_epochs=epochs, limit_val_batches=0, **kwargs)
    fitting.fit(model(optim=optim), data())
    return record.lrs


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(schedulers.CyclicLR, base_lr=0.1, max_lr=1.0, step_size_up=4, cycle_momentum=False),
        partial(schedulers.OneCycleLR, max_lr=1.0, total_steps=18, cycle_momentum=False),
        WarmupCosine,
    ],
)
def test_schedulers_that_count_steps_change_the_rate_in_every_step(tmp_path: Path, scheduler: Any) -> None:
    rates = learning_rates(tmp_path, scheduler)
    assert all(a != b for a, b in pairwise(rates))


def test_interval_states_what_a_scheduler_counts(tmp_path: Path) -> None:
    halve = partial(schedulers.StepLR, step_size=2, gamma=0.5)
    assert learning_rates(tmp_path, halve) == [1.0] * 12 + [0.5] * 6
    assert learning_rates(tmp_path, halve, "epoch") == [1.0] * 12 + [0.5] * 6
    assert learning_rates(tmp_path, halve, "step", 1) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("scheduler", "count"),
    [
        (partial(schedulers.PolynomialLR, total_iters=18), "PolynomialLR.total_iters is 18"),
        (partial(schedulers.LinearLR, total_iters=12), "LinearLR.total_iters is 12"),
        (partial(schedulers.ConstantLR, total_iters=12), "ConstantLR.total_iters is 12"),
        (partial(schedulers.CosineAnnealingLR, T_max=18), "CosineAnnealingLR.T_max is 18"),
        (partial(schedulers.CosineAnnealingWarmRestarts, T_0=9), "CosineAnnealingWarmRestarts.T_0 is 9"),
        (partial(schedulers.StepLR, step_size=10), "StepLR.step_size is 10"),
        (partial(schedulers.MultiStepLR, milestones=[10, 15]), "MultiStepLR.milestones is 10"),
    ],
)
def test_counts_of_steps_are_refused_as_epochs(tmp_path: Path, scheduler: Any, count: str) -> None:
    with pytest.raises(
        UsageError, match=f"{count}, but the fit has 3 epochs, and 18 steps; set model.optim.lr_interval"
    ):
        learning_rates(tmp_path, scheduler)
    assert len(learning_rates(tmp_path, scheduler, "step", limit_train_batches=1)) == 3


def test_shortened_fit_keeps_its_schedule(tmp_path: Path) -> None:
    assert learning_rates(tmp_path, partial(schedulers.StepLR, step_size=30), epochs=1) == [1.0] * 6
    assert learning_rates(tmp_path, partial(schedulers.MultiStepLR, milestones=[2, 80]), limit_train_batches=1)[-1] < 1


@pytest.mark.parametrize(
    ("scheduler", "interval", "reason"),
    [
        (WarmupCosine, "epoch", "lr_interval must be step for WarmupCosine, got epoch"),
        (
            partial(ReduceLROnPlateau, monitor="val/loss"),
            "step",
            "must be epoch for ReduceLROnPlateau, got step",
        ),
        (partial(schedulers.OneCycleLR, max_lr=1.0, total_steps=17), None, "total_steps must be at least 18.*, got 17"),
    ],
)
def test_impossible_intervals_raise(tmp_path: Path, scheduler: Any, interval: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        learning_rates(tmp_path, scheduler, interval)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 2), (1, 4)])
def test_smaller_batches_resume_within_epoch(tmp_path: Path, batch_size: int, accumulate: int) -> None:
    """As the advice after an out-of-memory error says."""
    options = {"max_epochs": 2, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    optim = Optim(lr_scheduler=WarmupCosine)
    stop = ModelCheckpoint(tmp_path, "stopped", every_n_train_steps=8, enable_version_counter=False)
    whole = trainer(
        tmp_path, callbacks=[before := Samples(), ExactResume(), stop], **options, enable_checkpointing=True
    )
    whole.fit(model(optim=optim), data())
    second = trainer(
        tmp_path, callbacks=[after := Samples(), ExactResume()], accumulate_grad_batches=accumulate, **options
    )
    smaller = data(batch_size=batch_size)
    second.fit(model(optim=optim), smaller, ckpt_path=tmp_path / "stopped.ckpt")
    assert second.global_step == 12
    assert after.paths == before.paths[8 * 4 :]
    third = trainer(tmp_path, callbacks=[ExactResume()], **options)
    with pytest.raises(UsageError, match=f"WarmupCosine counts steps, which had 4 .* have {batch_size} in this fit"):
        third.fit(model(optim=optim), smaller, ckpt_path=tmp_path / "stopped.ckpt")


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("bf16-mixed", False)])
@pytest.mark.parametrize(("algorithm", "order"), [("norm", 2), ("value", torch.inf)])
def test_gradients_are_clipped(tmp_path: Path, precision: str, fused: bool, algorithm: str, order: float) -> None:
    norms: list[float] = []

    class NormRecorder(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            gradients = torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None])
            norms.append(torch.linalg.vector_norm(gradients, order).item())

    clip = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
    fitting = trainer(tmp_path, precision=precision, callbacks=[NormRecorder()], limit_val_batches=0, **clip)
    fitting.fit(model(optim=Optim(partial(torch.optim.AdamW, lr=1e-3, fused=fused))), data())
    assert len(norms) == 6
    assert all(norm == pytest.approx(1e-3, rel=1e-2) for norm in norms)


class Scaler(torch.amp.GradScaler):
    """GradScaler that works on the CPU."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=2.0**10)


def test_gradients_are_unscaled_before_clipping() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer, scaler = torch.optim.SGD([weight], lr=1.0, fused=True), Scaler()
    module = SimpleNamespace(trainer=SimpleNamespace(precision_plugin=MixedPrecision("16-mixed", "cpu", scaler)))
    scaler.scale((weight * torch.tensor([3.0, 4.0])).sum()).backward()
    clip_gradients(module, optimizer, 1.0)
    scaler.step(optimizer)
    torch.testing.assert_close(weight.data, torch.tensor([-0.6, -0.8]))


class ManyArguments(Technique):
    """Method with arguments of several types."""

    def __init__(self, loss: Any = "mse", widths: Any = (1, 2), network: Any = None, metrics: Any = None) -> None:
        super().__init__()


def test_hparams_contain_only_plain_data() -> None:
    plain = {"loss": "hinge", "widths": (4, [5, None]), "metrics": {"a": 0.5}}
    assert plain.items() <= ManyArguments(**plain).hparams.items()
    objects = {"loss": torch.nn.MSELoss(), "widths": (torch.ones(1),), "metrics": {"a": print}}
    assert not objects.keys() & ManyArguments(**objects).hparams.keys()


@pytest.mark.parametrize("every", [1, 50])
def test_non_finite_loss_stops_and_names_batch(tmp_path: Path, every: int) -> None:
    saving = ModelCheckpoint(
        tmp_path, "last", every_n_train_steps=2, save_on_exception=True, enable_version_counter=False
    )
    fitting = trainer(
        tmp_path, log_every_n_steps=every, callbacks=[saving], enable_checkpointing=True, num_sanity_val_steps=0
    )
    train = data()
    with pytest.raises(TrainingError, match="since batch 3 of epoch 0: sample") as caught:
        fitting.fit(model(loss=NanAt(3)), train)
    order = train.train_dataloader().sampler.order(0)[12:16]
    assert all(f"sample {index}" in str(caught.value) for index in order)
    # the checkpoint on disk is the last finite one
    weights = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert weights["global_step"] == 2
    assert all(value.isfinite().all() for value in weights["state_dict"].values())
