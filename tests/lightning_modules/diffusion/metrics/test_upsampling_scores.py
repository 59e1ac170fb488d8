"""UpsamplingScores of stages with known errors, also over ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.lightning_modules.diffusion.metrics.upsampling_scores import UpsamplingScores, gradients
from darkroom.lightning_modules.metrics import attribute_judge
from tests.fakes.ranks import on_two_ranks
from tests.lightning_modules.diffusion.metrics import test_caption_scores as captions


class Stage(captions.Sampler):
    """Stage that adds 10 to every byte of the original images, which it records."""

    error = 10

    def reduced(self, x: Tensor) -> Tensor:
        assert x.abs().max() <= 1
        self.real = x
        return F.avg_pool2d(x, 2)

    def upsampled(self, low: Tensor) -> Tensor:
        return F.interpolate(low, scale_factor=2.0)

    def sample(self, captions: list[str] | None, low: Tensor, *, generator: list[torch.Generator]) -> Tensor:
        assert len(low) == len(generator)
        assert captions is None or len(captions) == len(low)
        return self.real + self.error / 127.5

    def to_uint8(self, images: Tensor) -> Tensor:
        return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def shown(index: Tensor, side: int = 8) -> tuple[Tensor, dict[str, Any]]:
    images, batch = captions.batch_of(index)
    pictures = torch.stack(
        [torch.randint(0, 200, (3, side, side), generator=torch.Generator().manual_seed(int(i))) for i in index]
    ).byte()
    pictures[:, 0, 0, :2] = images[:, 0, 0]
    return pictures, batch


def build_scores(stage: Stage, patch: pytest.MonkeyPatch, **options: Any) -> UpsamplingScores:
    patch.setattr(attribute_judge, "load_or_train_judge", lambda *args: (captions.ByteJudge(), {"all": 1.0}))
    scores = UpsamplingScores(**options)
    scores.prepare(stage)
    return scores


def test_metrics_match_known_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    scores = build_scores(stage, monkeypatch, num_samples=40, batch_size=16, fid=True)
    real, batch = shown(torch.arange(40))
    scores.update("val", real, batch)
    values = scores.compute("val", stage)
    assert values["psnr"] == pytest.approx(20 * torch.tensor(25.5).log10().item(), rel=1e-4)  # an error of 10 of 255
    assert values["edge_error"] == pytest.approx(0, abs=1e-6)  # a constant has no edges
    assert values["bicubic_edge_error"] > 0.05
    assert values["bicubic_psnr"] < values["psnr"]
    assert values["real_accuracy"] == pytest.approx(0.9)
    assert values["prompt_accuracy"] == values["bicubic_accuracy"] == 0  # plus ten is another kind
    assert values["cnn_fid"] > 0
    stage.error = 0
    perfect = scores.compute("val", stage)
    assert perfect["prompt_accuracy"] == pytest.approx(0.9)
    assert perfect["cnn_fid"] == pytest.approx(0, abs=1e-3)
    assert 54 < perfect["psnr"] < 55  # finite because of rounding to bytes
    assert perfect["bicubic_cnn_fid"] == pytest.approx(values["bicubic_cnn_fid"], rel=1e-3)


def test_psnr_needs_no_captions() -> None:
    stage = Stage()
    scores = UpsamplingScores(accuracy=False, num_samples=4)
    scores.prepare(stage)
    scores.update("test", shown(torch.arange(4))[0], {})
    assert set(scores.compute("test", stage)) == {"psnr", "edge_error", "bicubic_psnr", "bicubic_edge_error"}


def test_gradients_are_values_per_pixel() -> None:
    ramp = torch.arange(6.0).expand(1, 2, 5, 6) * 3
    assert torch.allclose(gradients(ramp), torch.full((1, 2, 3, 4), 3.0))
    assert torch.allclose(gradients(ramp.mT), torch.full((1, 2, 4, 3), 3.0))


def compute_all(rank: int, world_size: int) -> dict[str, float]:
    with pytest.MonkeyPatch.context() as patch:
        stage = Stage(rank, world_size)
        scores = build_scores(stage, patch, num_samples=15, batch_size=4)
        scores.update("val", *shown(torch.arange(rank, 20, world_size)))
        return scores.compute("val", stage)


def compute_on_rank(rank: int, folder: Path) -> dict[str, float]:
    return compute_all(rank, 2)


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    one, two = on_two_ranks(compute_on_rank, tmp_path)
    assert one == two == pytest.approx(compute_all(0, 1), rel=1e-4)
