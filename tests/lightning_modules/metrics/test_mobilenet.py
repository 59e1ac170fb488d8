"""Metrics of samples by MobileNet's features, on random weights in the true file."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.metrics import mobilenet
from darkroom.lightning_modules.metrics.mobilenet import MobileNet
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from tests.lightning_modules.metrics.test_sample_scores import Sampler


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torchvision.models.MobileNetV2:
    """Put random weights into torch's hub folder, under the name of the published ones."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2().eval()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "mobilenet_v2-b0353104.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return network


def noise(n: int, generator: torch.Generator | None = None, **_: Any) -> Tensor:
    """Return images uint8 (n, 3, 12, 12)."""
    return torch.randint(0, 256, (n, 3, 12, 12), generator=generator).byte()


def test_logits_are_those_of_torchvision(published: torchvision.models.MobileNetV2) -> None:
    network, images = MobileNet(), torch.randint(0, 256, (3, 3, 224, 224)).byte()
    transform = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms(resize_size=224)
    with torch.no_grad():
        expected = published(transform(images))
        torch.testing.assert_close(network.logits(network.features(images)), expected, rtol=1e-3, atol=1e-4)


def test_features_do_not_depend_on_batch(published: torchvision.models.MobileNetV2) -> None:
    network, images = MobileNet(), noise(5)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        whole = network.features(images)
        patch.setattr(mobilenet, "_BATCH", 2)
        torch.testing.assert_close(network.features(images), whole, rtol=1e-3, atol=1e-4)
        grey = images[:, :1]
        torch.testing.assert_close(network.features(grey), network.features(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("num_classes", [None, 5])
def test_metrics_have_their_own_names_and_no_accuracy(
    published: torchvision.models.MobileNetV2, num_classes: int | None
) -> None:
    sampler = Sampler(num_classes)
    sampler.sample = noise
    sampler.trainer.datamodule = None
    scores = SampleScores("mobilenet", num_samples=20, kid=True, inception_score=True)
    scores.prepare(sampler)
    scores.update("test", noise(20), {})
    assert set(scores.compute("test", sampler)) == {"mobilenet_fid", "mobilenet_kid", "mobilenet_is"}


def test_captions_without_attributes_have_mobilenet_fid(published: torchvision.models.MobileNetV2) -> None:
    sampler = Sampler()
    sampler.sample = lambda captions, generator: noise(len(captions))
    scores = CaptionScores(accuracy=False, fid=True, features="mobilenet", num_samples=4)
    scores.prepare(sampler)
    scores.update("test", noise(4), {"caption": ["a cat", "a dog", "a star", "a flag"]})
    assert set(scores.compute("test", sampler)) == {"mobilenet_fid"}


def test_missing_weights_name_the_make_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("offline")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UsageError, match="model.scores.features mobilenet: .*run make mobilenet-weights in a clone"):
        SampleScores("mobilenet").prepare(Sampler())
