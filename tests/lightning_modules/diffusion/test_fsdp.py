"""FSDP: a model sharded over two ranks trains, samples and is saved like an unsharded one."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.cli import run
from darkroom.datamodules.shapes.captions import ShapesCaptions
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion import (
    DDPM,
    CosineSchedule,
    DenoisingUNet,
    EfficientUNet,
    SuperResolution,
    TextToImage,
)
from darkroom.lightning_modules.diffusion.base import Diffusion
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder
from darkroom.lightning_modules.layers.ema import EMAOptions
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.fsdp import Sharded, gather, release, shard
from tests.conftest import CONFIGS
from tests.contracts.generation import CountingScores
from tests.contracts.module import trainer
from tests.contracts.ranks import join
from tests.fakes.ranks import on_two_ranks
from tests.test_configs import small

CAPTIONS = ["a red circle", "a blue star"]


class KeyedDiffusion(Diffusion):
    """Diffusion with noise and times derived from each image, independent of rank and batch."""

    def target_images(self, batch: dict[str, Any]) -> Tensor:
        x = super().target_images(batch)
        self._seeds = [int(one.double().abs().sum() * 1e3) for one in x]
        return x

    def noise(self, *shape: int, generator: Any = None, uniform: bool = False) -> Tensor:
        if self.training and generator is None:
            generator = [torch.Generator().manual_seed(seed) for seed in self._seeds]
        return super().noise(*shape, generator=generator, uniform=uniform)

    def losses(self, network: Any, x: Tensor, t: Tensor, noise: Tensor, condition: Any) -> dict[str, Tensor]:
        if network.training:
            t = torch.tensor(self._seeds, device=x.device) % self.schedule.num_steps
        return super().losses(network, x, t, noise, condition)


class KeyedTextToImage(KeyedDiffusion, TextToImage):
    pass


class KeyedSuperResolution(KeyedDiffusion, SuperResolution):
    pass


OPTIMIZER = partial(torch.optim.AdamW, lr=3e-3, eps=1e-3, fused=True)


def words() -> LearnedTextEncoder:
    return LearnedTextEncoder(ShapesCaptions().words, dim=8, layers=1, heads=2)


def text_to_image(**kwargs: Any) -> TextToImage:
    torch.manual_seed(0)
    network = DenoisingUNet((3, 16, 16), None, 8, (1, 2), 1, attention=(8,), dropout=0.0, text_dim=8)
    options = {
        "text_dropout": 0.0,
        "schedule": CosineSchedule(50),
        "ema": EMAOptions(decay=0.9),
        "sampling": Sampling(steps=2, guidance=1.0),
        "optim": Optim(OPTIMIZER, lr_scheduler=WarmupCosine),
    }
    return KeyedTextToImage(words(), (3, 16, 16), network, **{**options, **kwargs})


def super_resolution(**kwargs: Any) -> SuperResolution:
    torch.manual_seed(0)
    network = EfficientUNet((3, 16, 16), None, (8, 16), (1, 1), head_channels=8, gradient_checkpointing=True)
    options = {
        "noise_levels": (0.1, 0.1),
        "schedule": CosineSchedule(50),
        "ema": None,
        "sampling": Sampling(steps=2),
        "optim": Optim(OPTIMIZER, channels_last=True),
    }
    return KeyedSuperResolution((3, 16, 16), 2, network=network, **{**options, **kwargs})


MODELS: dict[str, Callable[..., Diffusion]] = {"text": text_to_image, "images": super_resolution}


def data(batch_size: int, **kwargs: Any) -> ShapesCaptions:
    sizes = {"train_size": 16, "val_size": 5, "test_size": 5, "num_workers": 0, "side": 16}
    return ShapesCaptions(**{**sizes, "batch_size": batch_size, **kwargs})


def fitting(folder: Path, name: str, **kwargs: Any) -> Trainer:
    """Return a Trainer with gradient clipping that saves after the third of eight steps and at the end."""
    rhythms = {f"{name}-third": {"every_n_train_steps": 3, "save_top_k": 1}, name: {"save_on_train_epoch_end": True}}
    saving = [SaveOnce(folder, file, enable_version_counter=False, **rhythm) for file, rhythm in rhythms.items()]
    common = {"callbacks": [*saving, ExactResume()], "enable_checkpointing": True, "gradient_clip_val": 0.05}
    return trainer(folder, **{**common, "max_epochs": 2, "limit_val_batches": 0, **kwargs})


class SaveOnce(ModelCheckpoint):
    """Save only one checkpoint every n steps."""

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if not self._every_n_train_steps or not self.best_model_path:
            super()._save_topk_checkpoint(trainer, monitor_candidates)


def on_rank(rank: int, **kwargs: Any) -> dict[str, Any]:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    return {"strategy": Sharded(), "devices": 2, **kwargs}


def loaded(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def train_on_rank(rank: int, folder: Path, kind: str) -> dict[str, Any]:
    """Run a full fit on one of two ranks, and resume from checkpoints of two ranks and of one process."""
    model = MODELS[kind]()
    training = fitting(folder, "two", **on_rank(rank))
    training.fit(model, data(2))
    parameters = dict(model.named_parameters())
    for name in ("two", "one"):
        going_on = fitting(folder, f"from_{name}", **on_rank(rank))
        going_on.fit(MODELS[kind](), data(2), ckpt_path=folder / f"{name}-third.ckpt", weights_only=True)
    return {
        "loss": training.callback_metrics["train/loss"],
        "whole": sum(p.numel() for p in parameters.values()),
        "local": sum(p.to_local().numel() for p in parameters.values() if isinstance(p, DTensor)),
        "undivided": [name for name, p in parameters.items() if not isinstance(p, DTensor)],
    }


def assert_equal_within(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    """Assert equal keys and numbers within float error; compare lists by index."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_within(one[key], other[key], tolerance)
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal_within(a, b, tolerance)
    elif isinstance(one, Tensor):
        assert type(other) is Tensor
        torch.testing.assert_close(other, one, atol=tolerance, rtol=tolerance)
    else:
        assert one == pytest.approx(other, rel=tolerance) if isinstance(one, float) else one == other


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_two_ranks_equal_one_with_doubled_batch(tmp_path: Path, kind: str) -> None:
    """Compare weights, EMA weights, optimizer states and loss; each resumes from the other's checkpoint."""
    alone = fitting(tmp_path, "one")
    alone.fit(MODELS[kind](), data(4))
    ranks = on_two_ranks(partial(train_on_rank, kind=kind), tmp_path)

    whole = ranks[0]["whole"]
    assert sum(rank["local"] for rank in ranks) == whole
    assert all(abs(rank["local"] - whole / 2) < 0.02 * whole for rank in ranks)
    assert not any(rank["undivided"] for rank in ranks)
    assert [rank["loss"].item() for rank in ranks] == pytest.approx([alone.callback_metrics["train/loss"].item()] * 2)

    fitting(tmp_path, "from_two_alone").fit(
        MODELS[kind](), data(4), ckpt_path=tmp_path / "two-third.ckpt", weights_only=True
    )
    expected = loaded(tmp_path / "one.ckpt")
    for name in ("two", "from_one", "from_two", "from_two_alone"):
        found = loaded(tmp_path / f"{name}.ckpt")
        assert found.keys() == expected.keys()
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_equal_within(expected[key], found[key])
        assert found["global_step"] == expected["global_step"] == 8
    two, again = (loaded(tmp_path / f"{name}.ckpt") for name in ("two", "from_two"))
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in two["state_dict"].items())


@pytest.mark.slow
def test_bf16_samples_in_one_process_match_two_ranks(tmp_path: Path) -> None:
    alone = fitting(tmp_path, "one", precision="bf16-mixed")
    alone.fit(text_to_image(), data(4))
    losses = on_two_ranks(sample_on_first_rank, tmp_path)
    assert losses == pytest.approx([alone.callback_metrics["train/loss"].item()] * 2, rel=0.01)
    model = text_to_image()
    model.load_state_dict(loaded(tmp_path / "two.ckpt")["state_dict"])
    with torch.autocast("cpu", torch.bfloat16):
        images = model.sample(CAPTIONS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(images, loaded(tmp_path / "images.pt"), atol=0.05, rtol=0)


def sample_on_first_rank(rank: int, folder: Path) -> float:
    """Sample on the first rank at the end of a validation, as callbacks do; the model is sharded again afterwards."""
    model = text_to_image()
    training = fitting(folder, "two", **on_rank(rank), limit_val_batches=1.0, precision="bf16-mixed")

    def draw(*_: object) -> None:
        if rank == 0:
            torch.save(model.sample(CAPTIONS, generator=torch.Generator().manual_seed(0)), folder / "images.pt")

    training.callbacks[0].on_validation_epoch_end = draw
    training.fit(model, data(2))
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return training.callback_metrics["train/loss"].item()


@pytest.mark.slow
def test_weights_are_sampled_and_trained_without_ema(tmp_path: Path) -> None:
    assert on_two_ranks(validate_on_rank, tmp_path) == [True, True]


def validate_on_rank(rank: int, folder: Path) -> bool:
    """Validate before the first and after every second step; then test, and sample three images on one rank, two on
    the other."""
    model = super_resolution()
    training = fitting(folder, "it", **on_rank(rank), limit_val_batches=1.0, val_check_interval=2, max_epochs=1)
    training.fit(model, data(2))
    training.test(model, data(2), ckpt_path=folder / "it.ckpt", verbose=False, weights_only=True)
    training.predict(model, data(1))
    return all(isinstance(p, DTensor) for p in model.parameters())


def test_parameters_gathered_in_inference_mode_can_be_trained(tmp_path: Path) -> None:
    """Check inference mode, in which Lightning evaluates on GPUs but not with gloo."""
    alone = two_layers()
    for x in (images(0), images(1)):
        (alone(x).square().mean() / 2).backward()
    for gradients in on_two_ranks(gather_on_rank, tmp_path):
        torch.testing.assert_close(gradients, [p.grad for p in alone.parameters()])


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def images(rank: int) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(rank))


def gather_on_rank(rank: int, folder: Path) -> list[Tensor]:
    module = two_layers()
    shard(module, init_device_mesh("cpu", (2,)))
    with torch.inference_mode():
        gather([module])
        for _ in range(1 + rank):  # a different number of times per rank
            module(images(rank))
        release([module])
    module(images(rank)).square().mean().backward()
    return [p.grad.full_tensor() for p in module.parameters()]


class UnevenScores(CountingScores):
    """Sample more on the first rank than on the second."""

    def compute(self, stage: str, module: Diffusion) -> dict[str, float]:
        for _ in range(2 - module.global_rank):
            self.sample(module, 2)
        return {"sampled": 2.0}


def evaluate_on_rank(rank: int, folder: Path, precision: str) -> list[float]:
    """Validate on an even share and test on an uneven one: five images on two ranks."""
    torch.manual_seed(0)
    network = DenoisingUNet(
        (3, 16, 16), 5, 8, (1, 2), 1, attention=(), dropout=0.0, learned_variance=True, self_conditioning=True
    )
    options = {
        "conditional": True,
        "objective": Objective(learned_variance=True, self_conditioning=True),
        "ema": EMAOptions(decay=0.9),
        "sampling": Sampling(steps=2),
    }
    model = DDPM((3, 16, 16), 5, network=network, schedule=CosineSchedule(10), bpd_samples=3, **options)
    model.scores = UnevenScores(lambda module, n: module.sample(n, labels=[0] * n))
    training = trainer(folder, **on_rank(rank), precision=precision, log_every_n_steps=1, max_epochs=2)
    shapes = ShapesImages(train_size=8, val_size=5, test_size=5, batch_size=2, num_workers=0, side=16)
    training.fit(model, shapes)
    scores = [training.callback_metrics[name].item() for name in ("train/loss", "val/loss", "val/sampled")]
    training.test(model, shapes, verbose=False)
    average = next(model.ema.module.parameters())
    assert average.dtype == torch.float32
    assert next(model.network.parameters()).dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
    return scores + [training.callback_metrics[name].item() for name in ("test/loss", "test/bits_per_dim")]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_uneven_ranks_do_not_hang(tmp_path: Path, precision: str) -> None:
    """Check batches, metrics and bits/dim, also with self-conditioning, which calls the network twice on both ranks."""
    one, two = on_two_ranks(partial(evaluate_on_rank, precision=precision), tmp_path)
    assert one == two
    assert torch.tensor(one).isfinite().all()


def arguments() -> list[object]:
    """Return options of a tiny Imagen with all callbacks that sample."""
    config = CONFIGS / "diffusion/imagen.yaml"
    sizes = small(yaml.safe_load(config.read_text()), Path("fake"), "diffusion", "shapes")
    return ["--config", config, *sizes, "--model.scores", "null", "--experiment", "it"]


def run_commands_on_rank(rank: int, folder: Path, configs: list[Path]) -> list[int]:
    """Run one rank of a fit and of its resumption."""
    join(rank)
    sharing = [part for config in configs for part in ("--config", config)] + ["--trainer.devices", 2]
    epochs = [["--trainer.max_epochs", 1], ["--trainer.max_epochs", 2, "--ckpt_path", "last"]]
    return [run.run([str(part) for part in ("fit", *arguments(), *sharing, *more)]) for more in epochs]


@pytest.mark.slow
def test_command_fits_resumes_and_tests_in_one_process(darkroom: Callable, tmp_path: Path) -> None:
    configs = [CONFIGS / "trainer/fsdp.yaml", CONFIGS / "trainer/bf16.yaml"]
    assert on_two_ranks(partial(run_commands_on_rank, configs=configs), tmp_path) == [[0, 0], [0, 0]]
    assert sorted(path.name for path in Path("runs/it").iterdir()) == ["0"]
    assert sorted(path.name for path in Path("runs/it/0/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert loaded(Path("runs/it/0/checkpoints/last.ckpt"))["global_step"] == 2
    outcome = darkroom("test", *arguments(), "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err


def test_fsdp_config_is_parsed(darkroom: Callable) -> None:
    configs = [CONFIGS / "diffusion/ddpm.yaml", CONFIGS / "trainer/ddp.yaml", CONFIGS / "trainer/fsdp.yaml"]
    outcome = darkroom("fit", *(part for config in configs for part in ("--config", config)), "--print_config")
    assert outcome.code == 0
    assert "class_path: darkroom.lightning_modules.utils.fsdp.Sharded" in outcome.out


def test_sharding_unsupported_model_raises(darkroom: Callable, tiny: list[str]) -> None:
    outcome = darkroom("fit", *tiny, "--config", CONFIGS / "trainer/fsdp.yaml", "--trainer.devices", "1")
    assert outcome.code == 2
    assert "UNet cannot be sharded among GPUs" in outcome.message
    assert "configs/trainer/ddp.yaml" in outcome.message


@pytest.mark.slow
def test_compile_with_fsdp_raises(darkroom: Callable) -> None:
    sharing = ["--config", CONFIGS / "trainer/fsdp.yaml", "--trainer.devices", "1"]
    outcome = darkroom("fit", *arguments(), *sharing, "--model.optim.compile", "true")
    assert outcome.code == 2
    assert "model.optim.compile must be false" in outcome.message


def test_lightning_fsdp_strategy_raises(tmp_path: Path) -> None:
    from lightning.pytorch.strategies import ModelParallelStrategy

    model = text_to_image()
    with pytest.raises(UsageError, match=r"ModelParallelStrategy.*configs/trainer/fsdp.yaml"):
        trainer(tmp_path, strategy=ModelParallelStrategy(1, 1), devices=1).fit(model, data(2))
