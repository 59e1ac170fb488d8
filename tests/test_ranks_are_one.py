"""Two ranks with batches of b equal one process with batches of 2b in losses, weights and metrics.

The cases have no batch norm, whose statistics are per rank, and their noise depends only on the image. The equality
does not hold for Dice, Lovasz, and methods that sample anchors or regions (R-CNN and its successors). The equality of a
GAN is tested in tests/lightning_modules/adversarial/test_dcgan.py.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import Dataset

from darkroom.datamodules.base import Split, VisionDataModule
from darkroom.datamodules.shapes.captions import ShapesCaptions
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules.autoencoding import AutoEncoder
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.detection.ssd import SSD
from darkroom.lightning_modules.diffusion import (
    DDPM,
    CosineSchedule,
    DenoisingUNet,
    EfficientUNet,
    ImagenCascade,
    LinearSchedule,
    SuperResolution,
    TextToImage,
)
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder
from darkroom.lightning_modules.metrics.scores import Scores, sum_over_ranks
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.segmentation import UNet
from darkroom.lightning_modules.segmentation.losses import BorderWeighted, CrossEntropy, Focal
from tests.contracts.module import trainer
from tests.fakes.ranks import on_two_ranks

SIZES = {"train_size": 12, "val_size": 5, "eval_batch_size": 1, "num_workers": 0}
STEPS = 3


class PartlyIgnored(ShapesSegmentation):
    """Shapes with a different number of ignored pixels in every mask, nearly all of the first ones."""

    def dataset(self, split: Split) -> Dataset:
        known = super().dataset(split)

        class Unknown(Dataset):
            def __len__(self) -> int:
                return len(known)

            def __getitem__(self, index: int) -> dict[str, Any]:
                sample = known[index]
                mask = sample["mask"].clone()
                mask[index**2 % 29 + 3 :] = 255
                return {**sample, "mask": mask, "border": torch.full(mask.shape, float(index))}

        return Unknown()


class KeyedNoise(DDPM):
    """DDPM with time and noise derived from the image."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = self.target_images(batch)
        keys = (x.double().square().sum((1, 2, 3)) * 1e6).long()
        noise = self.noise(*x.shape, generator=[torch.Generator().manual_seed(key) for key in keys.tolist()])
        terms = self.losses(self.network, x, keys % self.schedule.num_steps, noise, self.make_condition(batch, x))
        return self.log_loss({name: value.mean() for name, value in terms.items()})


def unet(**kwargs: Any) -> UNet:
    return UNet(num_classes=6, base_channels=4, batch_norm=False, **kwargs)


def ssd(**kwargs: Any) -> SSD:
    sizes = {"num_classes": 5, "image_size": 64, "backbone": "resnet18", "width": 0.25, "sizes": [10, 16, 24, 36, 50]}
    return SSD(norm="frozen", **sizes, **kwargs)


def classifier(**kwargs: Any) -> ImageClassifier:
    network = BackboneClassifier("vgg11", 8, (3, 32, 32), width=0.05)
    return ImageClassifier(network, num_classes=8, label_smoothing=0.1, **kwargs)


def autoencoder(**kwargs: Any) -> AutoEncoder:
    return AutoEncoder((3, 16, 16), 4, "mlp", hidden=(16,), **kwargs)


def ddpm(**kwargs: Any) -> DDPM:
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "dropout": 0.0}
    return KeyedNoise((3, 16, 16), network=DenoisingUNet((3, 16, 16), **small), schedule=LinearSchedule(50), **kwargs)


Build = Callable[..., Technique]
CASES: dict[str, tuple[Build, Callable[..., VisionDataModule], float]] = {
    "cross_entropy": (
        partial(unet, loss=CrossEntropy(class_weights=[1, 2, 3, 4, 5, 6])),
        partial(PartlyIgnored, side=32),
        0.1,
    ),
    "focal": (partial(unet, loss=Focal()), partial(PartlyIgnored, side=32), 0.1),
    "border_weighted": (partial(unet, loss=BorderWeighted()), partial(PartlyIgnored, side=32), 0.1),
    "ssd": (ssd, partial(ShapesDetection, side=64), 0.01),
    "classifier": (classifier, partial(ShapesImages, side=32, label="colour"), 0.01),
    "autoencoder": (autoencoder, partial(ShapesImages, side=16), 1e-4),
    "ddpm": (ddpm, partial(ShapesImages, side=16), 0.1),
}


class LossRecorder(Callback):
    """Record the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def fit_case(case: str, batch_size: int, folder: Path, **kwargs: Any) -> dict[str, Any]:
    """Fit and return the loss of every step, final weights and final metrics."""
    build, data, lr = CASES[case]
    torch.manual_seed(0)
    model, curve = build(optim=Optim(lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9))), LossRecorder()
    fitting = trainer(folder, log_every_n_steps=1, num_sanity_val_steps=0, callbacks=[curve], **kwargs)
    fitting.fit(model, data(batch_size=batch_size, **SIZES))
    scores = {name: float(value) for name, value in fitting.callback_metrics.items() if name.startswith("val/")}
    return {
        "losses": curve.losses,
        "weights": {name: value.detach() for name, value in model.named_parameters()},
        "scores": scores,
    }


def train_on_rank(case: str, rank: int, folder: Path) -> dict[str, Any]:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    return fit_case(case, 2, folder, strategy="ddp", devices=2)


@pytest.mark.slow  # the unit lane has the same of a GAN
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_with_doubled_batch(tmp_path: Path, case: str) -> None:
    one, two = on_two_ranks(partial(train_on_rank, case), tmp_path)
    alone = fit_case(case, 4, tmp_path)
    assert len(alone["losses"]) == STEPS
    assert len(set(alone["losses"])) == STEPS
    assert one["losses"] == two["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    for name, value in alone["weights"].items():  # parameters only: running statistics are those of rank 0
        torch.testing.assert_close(one["weights"][name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert one["scores"] == pytest.approx(alone["scores"], rel=1e-3, abs=1e-5, nan_ok=True)


class Brightness(Scores):
    """Metrics of the mean of samples and the number of real images."""

    def add_real(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        pass

    def score_samples(self, stage: str, module: ImagenCascade) -> dict[str, float]:
        samples = [
            module.sample(["a star"], generator=self._generators(slice(i, i + 1))) for i in range(self._seen[stage])
        ]
        total, seen = sum_over_ranks(torch.tensor([torch.cat(samples).double().sum(), len(samples)])).tolist()
        return {"brightness": total / seen, "seen": seen}


def scores_on(rank: int, folder: Path, **kwargs: Any) -> dict[str, float]:
    """Return the metrics of a cascade's test on three images."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    torch.manual_seed(0)
    words, settings = (
        LearnedTextEncoder(ShapesCaptions().words, dim=8, layers=1, heads=2),
        {"schedule": CosineSchedule(50), "sampling": Sampling(steps=2)},
    )
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "text_dim": 8}
    base = TextToImage(words, (3, 16, 16), DenoisingUNet((3, 16, 16), **small), **settings)
    upper = EfficientUNet((3, 32, 32), channels=(8, 16), blocks=(1, 1), head_channels=8)
    stage = SuperResolution((3, 32, 32), network=upper, factor=2, **settings)
    cascade = ImagenCascade(base, [stage], scores=Brightness(3, 1, 1, 0))
    data = ShapesCaptions(test_size=3, batch_size=2, num_workers=0, side=32)
    (scores,) = trainer(folder, **kwargs).test(cascade, data, verbose=False)
    return scores


@pytest.mark.slow
def test_cascade_metrics_are_equal_on_two_ranks(tmp_path: Path) -> None:
    one, two = on_two_ranks(partial(scores_on, strategy="ddp", devices=2), tmp_path)
    assert one == two == pytest.approx(scores_on(0, tmp_path), rel=1e-4)
    assert one["test/seen"] == 3
