"""Every metric of few samples: a right value, nan with one warning, or a refusal that names the smallest number."""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.inception import InceptionScore

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding.active_units import ActiveUnits
from darkroom.lightning_modules.autoencoding.disentanglement import MutualInformationGap
from darkroom.lightning_modules.detection.metrics import COCOScores, VOCScores
from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.diffusion.metrics.upsampling_scores import UpsamplingScores
from darkroom.lightning_modules.metrics.feature_statistics import _inception_score
from darkroom.lightning_modules.segmentation.metrics import PerImageScores, SegmentationScores
from tests.lightning_modules.diffusion.metrics import test_caption_scores as captions
from tests.lightning_modules.diffusion.metrics import test_upsampling_scores as upsampling
from tests.lightning_modules.metrics import test_sample_scores as samples


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def sample_scores(count: int, patch: pytest.MonkeyPatch, **options: bool) -> dict[str, float]:
    sampler = samples.Sampler(rows=count)
    sampler.in_order = True
    network = samples.Table(random(count, 4), random(count, 4) + 1)
    scores = samples.build_scores(network, patch, sampler, num_samples=count, **options)
    samples.add_real_images(scores, torch.arange(count))
    return scores.compute("val", sampler)


def caption_fid(count: int, patch: pytest.MonkeyPatch) -> dict[str, float]:
    sampler = captions.Sampler()
    scores = captions.build_scores(sampler, patch, num_samples=count, fid=True)
    assert isinstance(scores, CaptionScores)
    scores.update("val", *captions.batch_of(torch.arange(count)))
    values = scores.compute("val", sampler)
    return {name: values[name] for name in ("cnn_fid", "real_accuracy")}


def upsampling_fid(count: int, patch: pytest.MonkeyPatch) -> dict[str, float]:
    stage = upsampling.Stage()
    scores = upsampling.build_scores(stage, patch, num_samples=count, fid=True)
    assert isinstance(scores, UpsamplingScores)
    scores.update("val", *upsampling.shown(torch.arange(count)))
    return scores.compute("val", stage)


def active_units(count: int, patch: pytest.MonkeyPatch) -> dict[str, float]:
    metric = ActiveUnits(3)
    metric.update(random(count, 3))
    return {"active_units": metric.compute().item()}


def information_gap(count: int, patch: pytest.MonkeyPatch) -> dict[str, float]:
    metric = MutualInformationGap()
    metric.update(random(count, 3), torch.arange(2 * count).view(-1, 2) % 5)
    gap, of_factors = metric.compute()
    return {"MIG": gap.item(), "of a factor": of_factors[0].item()}


def segmentation(count: int, patch: pytest.MonkeyPatch) -> dict[str, float]:
    whole, single = SegmentationScores(2), PerImageScores()
    mask = torch.zeros(count, 8, 8, dtype=torch.long)
    mask[:, :4] = 1
    for metric in (whole, single):
        metric.update(mask, mask)
    return {name: value.item() for metric in (whole, single) for name, value in metric.compute().items()}


def detection(count: int, patch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return metrics of a medium object in each image; AP_small and AP_large are undefined."""
    boxes, labels = torch.tensor([[0.0, 0, 50, 50]]), torch.tensor([1])
    values = {}
    for metric in (COCOScores(1), VOCScores(1)):
        found = [{"boxes": boxes, "labels": labels, "scores": torch.tensor([0.5])}] * count
        metric.update(found, [{"boxes": boxes, "labels": labels}] * count)
        values |= {name: value.item() for name, value in metric.compute().items()}
    assert math.isnan(values.pop("AP_small"))
    assert math.isnan(values.pop("AP_large"))
    return values


class Case(NamedTuple):
    compute: Callable[[int, pytest.MonkeyPatch], dict[str, float]]
    least: int  # the smallest number of samples with a value


CASES = {
    "fid": Case(sample_scores, 2),
    "kid": Case(lambda count, patch: sample_scores(count, patch, fid=False, kid=True), 2),
    "inception_score": Case(lambda count, patch: sample_scores(count, patch, fid=False, inception_score=True), 20),
    "caption_fid": Case(caption_fid, 2),
    "upsampling_fid": Case(upsampling_fid, 2),
    "active_units": Case(active_units, 2),
    "information_gap": Case(information_gap, 20),
    "segmentation": Case(segmentation, 1),
    "detection": Case(detection, 1),
}


@pytest.mark.parametrize("count", [1, 2, 10, 11, 20, 21])
@pytest.mark.parametrize("name", CASES)
def test_few_samples_give_a_value_a_warning_or_a_refusal(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, least = CASES[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            values = compute(count, monkeypatch)
        except UsageError as error:
            values, message = {}, str(error)
        else:
            message = " ".join(str(warning.message) for warning in caught)
    if count >= least:
        assert values
        assert all(math.isfinite(value) for value in values.values())
        assert not message
    else:
        assert all(math.isnan(value) for value in values.values())
        assert str(least) in message
        assert f"got {count}" in message
        assert len(caught) == (len(values) > 0)


@pytest.mark.parametrize("count", [2, 3, 10, 100, 1000])
def test_fid_of_few_images_matches_definition(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of sample covariances, for four features."""
    real, generated = random(count, 4).double().numpy(), random(count, 4).double().numpy() + 1
    a, b = np.cov(real.T), np.cov(generated.T)
    root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    expected = ((real.mean(0) - generated.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
    actual = sample_scores(count, monkeypatch)["cnn_fid"]
    assert actual == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [20, 21, 91, 100])
def test_inception_score_averages_ten_parts(count: int) -> None:
    """Compare with torchmetrics where its parts are ten equal ones; of 21 samples it makes six, of 91 one of a single."""
    logits = 3 * random(count, 5)
    torch.manual_seed(0)
    actual = _inception_score(logits)
    torch.manual_seed(0)
    parts = torch.tensor_split(logits[torch.randperm(count)].softmax(1), 10)
    expected = [(p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item() for p in parts]
    assert actual == pytest.approx(sum(expected) / 10, rel=1e-5)
    if count % 10 == 0:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = InceptionScore(torch.nn.Identity(), splits=10)
        theirs.update(logits)
        assert actual == pytest.approx(theirs.compute()[0].item(), rel=1e-5)
