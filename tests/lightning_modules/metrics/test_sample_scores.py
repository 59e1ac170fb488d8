"""SampleScores against closed forms, over ranks, and without side effects on training."""

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics import inception, sample_scores
from darkroom.lightning_modules.metrics.reference_classifier import ReferenceClassifier
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from tests.fakes.ranks import on_two_ranks

REAL, SAMPLED = 0, 128  # the first byte of an image selects the table of its features


class Table(ReferenceClassifier):
    """Classifier whose features are a row of a table; the image encodes the index of the row."""

    num_features = 4

    def __init__(self, real: Tensor, samples: Tensor) -> None:
        nn.Module.__init__(self)
        self.register_buffer("table", torch.stack([real, samples]).float())

    def features(self, images: Tensor) -> Tensor:
        which, high, low = images.flatten(1).long().T
        return self.table[(which == SAMPLED).long(), high * 256 + low]

    def logits(self, features: Tensor) -> Tensor:
        return 3 * features


def index_images(kind: int, index: Tensor) -> Tensor:
    """Return images uint8 (N, 3, 1, 1) of indices."""
    return torch.stack([torch.full_like(index, kind), index // 256, index % 256], 1).to(torch.uint8)[..., None, None]


class Sampler:
    """Replacement of a method: samples rows in random or in given order."""

    device = torch.device("cpu")

    def __init__(self, num_classes: int | None = None, rank: int = 0, world_size: int = 1, rows: int = 400) -> None:
        self.num_classes, self.rows, self.sampled, self.labels, self.in_order = num_classes, rows, 0, [], False
        strategy = SimpleNamespace(root_device=self.device)
        self.trainer = SimpleNamespace(
            global_rank=rank, world_size=world_size, strategy=strategy, datamodule=object(), sanity_checking=False
        )
        self.trainer.state = SimpleNamespace(fn="fit")

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        self.labels += [] if labels is None else labels.tolist()
        first, self.sampled = self.sampled, self.sampled + n
        index = torch.arange(first, first + n) if self.in_order else torch.randint(self.rows, (n,), generator=generator)
        return index_images(SAMPLED, index)

    def to_uint8(self, images: Tensor) -> Tensor:
        return images


def gaussian(mean: Tensor, root: Tensor, count: int, seed: int) -> Tensor:
    """Return rows with the exact mean ``mean`` and the exact covariance ``root root^T``."""
    x = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed)).double()
    x = x - x.mean(0)
    return mean + x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T @ root.T


def build_scores(network: nn.Module, monkeypatch: pytest.MonkeyPatch, sampler: Sampler, **options: Any) -> SampleScores:
    monkeypatch.setattr(sample_scores, "load_or_train_classifier", lambda *args: (network, 1.0))
    scores = SampleScores(**options)
    scores.prepare(sampler)
    return scores


def add_real_images(scores: SampleScores, index: Tensor, stage: str = "val", labels: Tensor | None = None) -> None:
    for part in index.split(37):
        scores.update(stage, index_images(REAL, part), {} if labels is None else {"label": labels[part]})


def test_fid_of_gaussians_matches_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    means, roots = torch.randn(2, 4).double(), torch.randn(2, 4, 4).double()
    real, sampled = (
        gaussian(mean, root, 400, seed) for seed, (mean, root) in enumerate(zip(means, roots, strict=True))
    )
    sampler = Sampler()
    sampler.in_order = True
    scores = build_scores(Table(real, sampled), monkeypatch, sampler, num_samples=400)
    add_real_images(scores, torch.arange(400))
    a, b = (root @ root.T for root in roots)
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ values.sqrt().diag() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()  # trace of (a b)^(1/2)
    expected = (means[0] - means[1]).square().sum() + a.trace() + b.trace() - 2 * cross
    assert scores.compute("val", sampler)["cnn_fid"] == pytest.approx(expected.item(), rel=1e-4)


def test_equal_sets_have_zero_fid_and_kid(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(400, 4)
    sampler = Sampler()
    sampler.in_order = True
    scores = build_scores(Table(rows, rows), monkeypatch, sampler, num_samples=400, kid=True, inception_score=True)
    add_real_images(scores, torch.arange(400))
    values = scores.compute("val", sampler)
    assert values["cnn_fid"] == pytest.approx(0, abs=1e-4)
    assert abs(values["cnn_kid"]) < 0.1  # unbiased, so not quite 0
    p = (3 * rows).softmax(1)
    whole = (p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item()
    assert values["cnn_is"] == pytest.approx(whole, rel=0.1)
    assert 1 < values["cnn_is"] < 4


def test_kid_is_unbiased_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    real, sampled = torch.randn(60, 4), torch.randn(60, 4) + 0.5
    sampler = Sampler()
    sampler.in_order = True
    scores = build_scores(Table(real, sampled), monkeypatch, sampler, num_samples=60, fid=False, kid=True)
    add_real_images(scores, torch.arange(60))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / 4 + 1) ** 3

    off = 1 - torch.eye(60).double()
    inside = ((kernel(real, real) + kernel(sampled, sampled)) * off).sum() / (60 * 59)
    expected = inside - 2 * kernel(real, sampled).mean()
    assert scores.compute("val", sampler) == {"cnn_kid": pytest.approx(expected.item(), rel=1e-4)}


def test_metrics_depend_on_seed_and_keep_global_rng(monkeypatch: pytest.MonkeyPatch) -> None:
    network, values = Table(torch.randn(400, 4), torch.randn(400, 4)), []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        sampler = Sampler()
        options = {"num_samples": 250, "kid": True, "inception_score": True, "seed": seed}
        scores = build_scores(network, monkeypatch, sampler, **options)
        add_real_images(scores, torch.arange(400))
        values.append(scores.compute("val", sampler))
        assert scores.compute("val", sampler) == values[-1]  # samples are discarded, real images are kept
        assert torch.equal(before, torch.get_rng_state())
    assert values[0] == values[1] != values[2]


def test_real_images_are_first_of_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, sampler = torch.randn(400, 4), Sampler()
    first, all_of_them = (torch.arange(count) for count in (150, 400))
    values = []
    for shown, passes in ((first, 1), (all_of_them, 1), (all_of_them, 3)):
        scores = build_scores(
            Table(rows, torch.randn(400, 4).mul_(0) + rows.flip(0)), monkeypatch, sampler, num_samples=150
        )
        for _ in range(passes):
            add_real_images(scores, shown)
            values.append(scores.compute("val", sampler))
    assert all(value == values[0] for value in values)
    add_real_images(scores, all_of_them[200:], "test")  # a separate set
    assert scores.compute("test", sampler) != values[0]


def test_conditional_modules_report_label_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = torch.arange(400) % 4
    samples = nn.functional.one_hot(torch.where(torch.arange(400) % 8 == 7, 0, classes), 4).float()
    real = nn.functional.one_hot((classes + (torch.arange(400) < 40)) % 4, 4).float()
    sampler = Sampler(num_classes=4)
    sampler.in_order = True
    scores = build_scores(Table(real, samples), monkeypatch, sampler, num_samples=400, batch_size=50)
    add_real_images(scores, torch.arange(400), labels=classes)
    values = scores.compute("val", sampler)
    assert sampler.labels == classes.tolist()  # balanced for any batch size
    assert values["label_accuracy"] == pytest.approx(7 / 8)
    assert values["cnn_accuracy"] == pytest.approx(9 / 10)
    unlabelled = build_scores(Table(real, samples), monkeypatch, sampler, num_samples=400)
    add_real_images(unlabelled, torch.arange(400))
    sampler.sampled = 0
    assert set(unlabelled.compute("val", sampler)) == {"cnn_fid", "label_accuracy"}


def test_needs_more_until_enough_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler()
    scores = build_scores(Table(torch.randn(400, 4), torch.randn(400, 4)), monkeypatch, sampler, num_samples=20)
    assert scores.needs_more("val")
    scores.update("val", index_images(REAL, torch.arange(12)), {})
    assert scores.needs_more("val")
    scores.update("val", index_images(REAL, torch.arange(12)), {})
    assert not scores.needs_more("val")
    scores.update("test", index_images(REAL, torch.arange(5)), {})
    scores.compute("test", sampler)  # a set of five
    assert not scores.needs_more("test")


def test_metrics_run_every_n_validations_and_in_test(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler()
    network = Table(torch.randn(400, 4), torch.randn(400, 4))
    scores = build_scores(network, monkeypatch, sampler, num_samples=20, every_n_validations=3)
    for stage in ("val", "test"):
        add_real_images(scores, torch.arange(40), stage)
    assert [bool(scores.compute("val", sampler)) for _ in range(6)] == [True, False, False] * 2
    assert sampler.sampled == 40  # no unused samples
    assert scores.compute("test", sampler)
    assert scores.compute("test", sampler)


def test_validate_command_always_computes_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler()
    sampler.trainer.state.fn = "validate"
    network = Table(torch.randn(400, 4), torch.randn(400, 4))
    scores = build_scores(network, monkeypatch, sampler, num_samples=20, every_n_validations=3)
    add_real_images(scores, torch.arange(40), "val")
    assert all(scores.compute("val", sampler) for _ in range(3))


def test_inference_mode_and_autocast_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler()
    network = ReferenceClassifier(3, 4).eval().requires_grad_(False)
    sampler.sample = lambda n, labels, generator: torch.randint(0, 256, (n, 3, 9, 9), generator=generator).byte()
    real = torch.randint(0, 256, (60, 3, 9, 9)).byte()
    values = []
    for inference in (False, True):
        scores = build_scores(network, monkeypatch, sampler, num_samples=50, kid=True, inception_score=True)
        with torch.inference_mode(inference), torch.autocast("cpu", torch.bfloat16, enabled=inference):
            scores.update("val", real, {})
            values.append(scores.compute("val", sampler))
        assert scores.compute("val", sampler) == values[-1]  # in another mode
    assert values[0] == values[1]


def compute_on_rank(rank: int, folder: Path) -> list[dict[str, float]]:
    """Compute metrics on one of two ranks; 401 images and 5 chunks are uneven shares."""
    return compute_all(rank, 2)


def compute_all(rank: int, world_size: int) -> list[dict[str, float]]:
    """Compute metrics of 401 of 600 images twice, and of a set so small that a rank has no images."""
    rows = torch.randn(2, 600, 4, generator=torch.Generator().manual_seed(0))
    results = []
    with pytest.MonkeyPatch.context() as patch:
        sampler = Sampler(num_classes=4, rank=rank, world_size=world_size, rows=600)
        options = {"kid": True, "inception_score": True}
        scores = build_scores(Table(*rows), patch, sampler, num_samples=401, batch_size=90, **options)
        add_real_images(scores, torch.arange(rank, 600, world_size), labels=torch.arange(600) % 4)
        results += [scores.compute("val", sampler) for _ in range(2)]
        few = build_scores(Table(*rows), patch, sampler, num_samples=20, **options)
        add_real_images(few, torch.arange(rank, 3, world_size), "test")
        results.append(few.compute("test", sampler))
    return results


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Check gathering: the samples are equal, and each counts once."""
    alone, one, two = compute_all(0, 1), *on_two_ranks(compute_on_rank, tmp_path)
    assert one == two
    for mine, theirs in zip(alone, one, strict=True):
        split = mine.pop("cnn_is"), theirs.pop("cnn_is")  # ten splits in another order
        assert split[0] == pytest.approx(split[1], rel=0.1)
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_invalid_arguments_raise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for options, message in (
        ({"num_samples": 1}, "model.scores.num_samples must be at least 2, got 1"),
        ({"every_n_validations": 0}, "model.scores.every_n_validations must be at least 1, got 0"),
        ({"fid": False}, "computes none of"),
    ):
        with pytest.raises(UsageError, match=message):
            SampleScores(**options)
    sampler = Sampler()
    scores = build_scores(Table(torch.randn(9, 4), torch.randn(9, 4)), monkeypatch, sampler)
    add_real_images(scores, torch.arange(1))
    with pytest.raises(UsageError, match="at least 2 real images of the val split, got 1"):
        scores.compute("val", sampler)
    sampler.trainer.datamodule = None
    with pytest.raises(UsageError, match="needs a datamodule"):
        SampleScores().prepare(sampler)
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install .*\[fid\]"):
        SampleScores("inception").prepare(sampler)
    monkeypatch.setattr(inception, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match="nowhere.pth does not exist; download https://"):
        SampleScores("inception", inception_weights=str(tmp_path / "nowhere.pth")).prepare(sampler)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="bad.pth cannot be loaded .*; download https://"):
        SampleScores("inception", inception_weights=str(tmp_path / "bad.pth")).prepare(sampler)


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is None, reason="needs torch-fidelity")
def test_inception_weights_are_read_from_file(tmp_path: Path) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *args: None)
        network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    sampler = Sampler()
    sampler.sample = lambda n, labels, generator: torch.randint(0, 256, (n, 1, 8, 8), generator=generator).byte()
    options = {"num_samples": 20, "fid": False, "kid": True, "inception_score": True}
    scores = SampleScores("inception", inception_weights=str(tmp_path / "weights.pth"), **options)
    scores.prepare(sampler)
    scores.update("test", torch.randint(0, 256, (2, 1, 8, 8)).byte(), {})
    values = scores.compute("test", sampler)
    assert set(values) == {"kid", "is"}
    assert all(math.isfinite(value) for value in values.values())
