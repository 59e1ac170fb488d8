"""SampleScores against closed forms, over ranks, and beside a training that it must not disturb."""

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

REAL, DRAWN = 0, 128  # the first byte of a picture says which table its features are in


class Table(ReferenceClassifier):
    """A picture's features are a row of a table; the picture is the row's number."""

    num_features = 4

    def __init__(self, real: Tensor, drawn: Tensor) -> None:
        nn.Module.__init__(self)
        self.register_buffer("table", torch.stack([real, drawn]).float())

    def features(self, images: Tensor) -> Tensor:
        which, high, low = images.flatten(1).long().T
        return self.table[(which == DRAWN).long(), high * 256 + low]

    def logits(self, features: Tensor) -> Tensor:
        return 3 * features


def numbered(kind: int, index: Tensor) -> Tensor:
    """Pictures uint8 (N, 3, 1, 1)."""
    return torch.stack([torch.full_like(index, kind), index // 256, index % 256], 1).to(torch.uint8)[..., None, None]


class Artist:
    """Stands for a technique: draws rows that the generator decides, or in order."""

    device = torch.device("cpu")

    def __init__(self, num_classes: int | None = None, rank: int = 0, world_size: int = 1, rows: int = 400) -> None:
        self.num_classes, self.rows, self.drawn, self.asked, self.inorder = num_classes, rows, 0, [], False
        strategy = SimpleNamespace(root_device=self.device)
        self.trainer = SimpleNamespace(
            global_rank=rank, world_size=world_size, strategy=strategy, datamodule=object(), sanity_checking=False
        )
        self.trainer.state = SimpleNamespace(fn="fit")

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        self.asked += [] if labels is None else labels.tolist()
        first, self.drawn = self.drawn, self.drawn + n
        index = torch.arange(first, first + n) if self.inorder else torch.randint(self.rows, (n,), generator=generator)
        return numbered(DRAWN, index)

    def to_uint8(self, images: Tensor) -> Tensor:
        return images


def gaussian(mean: Tensor, root: Tensor, count: int, seed: int) -> Tensor:
    """Rows whose mean is exactly ``mean`` and whose covariance is exactly ``root root^T``."""
    x = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed)).double()
    x = x - x.mean(0)
    return mean + x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T @ root.T


def scores_of(network: nn.Module, monkeypatch: pytest.MonkeyPatch, artist: Artist, **options: Any) -> SampleScores:
    monkeypatch.setattr(sample_scores, "load_or_train_classifier", lambda *args: (network, 1.0))
    scores = SampleScores(**options)
    scores.prepare(artist)
    return scores


def show(scores: SampleScores, index: Tensor, stage: str = "val", labels: Tensor | None = None) -> None:
    for part in index.split(37):
        scores.update(stage, numbered(REAL, part), {} if labels is None else {"label": labels[part]})


def test_fid_of_two_gaussians_is_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    means, roots = torch.randn(2, 4).double(), torch.randn(2, 4, 4).double()
    real, drawn = (gaussian(mean, root, 400, seed) for seed, (mean, root) in enumerate(zip(means, roots, strict=True)))
    artist = Artist()
    artist.inorder = True
    scores = scores_of(Table(real, drawn), monkeypatch, artist, num_samples=400)
    show(scores, torch.arange(400))
    a, b = (root @ root.T for root in roots)
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ values.sqrt().diag() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()  # trace of (a b)^(1/2)
    expected = (means[0] - means[1]).square().sum() + a.trace() + b.trace() - 2 * cross
    assert scores.compute("val", artist)["cnn_fid"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_same_set_has_no_distance_and_no_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(400, 4)
    artist = Artist()
    artist.inorder = True
    scores = scores_of(Table(rows, rows), monkeypatch, artist, num_samples=400, kid=True, inception_score=True)
    show(scores, torch.arange(400))
    values = scores.compute("val", artist)
    assert values["cnn_fid"] == pytest.approx(0, abs=1e-4)
    assert abs(values["cnn_kid"]) < 0.1  # unbiased, so not quite 0
    p = (3 * rows).softmax(1)
    whole = (p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item()
    assert values["cnn_is"] == pytest.approx(whole, rel=0.1)
    assert 1 < values["cnn_is"] < 4


def test_kid_is_the_unbiased_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = torch.randn(60, 4), torch.randn(60, 4) + 0.5
    artist = Artist()
    artist.inorder = True
    scores = scores_of(Table(real, drawn), monkeypatch, artist, num_samples=60, fid=False, kid=True)
    show(scores, torch.arange(60))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / 4 + 1) ** 3

    off = 1 - torch.eye(60).double()
    inside = ((kernel(real, real) + kernel(drawn, drawn)) * off).sum() / (60 * 59)
    expected = inside - 2 * kernel(real, drawn).mean()
    assert scores.compute("val", artist) == {"cnn_kid": pytest.approx(expected.item(), rel=1e-4)}


def test_the_seed_alone_decides_and_the_training_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, values = Table(torch.randn(400, 4), torch.randn(400, 4)), []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        artist = Artist()
        options = {"num_samples": 250, "kid": True, "inception_score": True, "seed": seed}
        scores = scores_of(network, monkeypatch, artist, **options)
        show(scores, torch.arange(400))
        values.append(scores.compute("val", artist))
        assert scores.compute("val", artist) == values[-1]  # drawn pictures are forgotten, real ones kept
        assert torch.equal(before, torch.get_rng_state())
    assert values[0] == values[1] != values[2]


def test_real_pictures_are_the_first_of_the_set_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, artist = torch.randn(400, 4), Artist()
    first, all_of_them = (torch.arange(count) for count in (150, 400))
    values = []
    for shown, passes in ((first, 1), (all_of_them, 1), (all_of_them, 3)):
        scores = scores_of(
            Table(rows, torch.randn(400, 4).mul_(0) + rows.flip(0)), monkeypatch, artist, num_samples=150
        )
        for _ in range(passes):
            show(scores, shown)
            values.append(scores.compute("val", artist))
    assert all(value == values[0] for value in values)
    show(scores, all_of_them[200:], "test")  # another set of its own
    assert scores.compute("test", artist) != values[0]


def test_conditional_modules_are_judged_by_label(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = torch.arange(400) % 4
    drawn = nn.functional.one_hot(torch.where(torch.arange(400) % 8 == 7, 0, classes), 4).float()
    real = nn.functional.one_hot((classes + (torch.arange(400) < 40)) % 4, 4).float()
    artist = Artist(num_classes=4)
    artist.inorder = True
    scores = scores_of(Table(real, drawn), monkeypatch, artist, num_samples=400, batch_size=50)
    show(scores, torch.arange(400), labels=classes)
    values = scores.compute("val", artist)
    assert artist.asked == classes.tolist()  # evenly, whatever the batches
    assert values["label_accuracy"] == pytest.approx(7 / 8)
    assert values["cnn_accuracy"] == pytest.approx(9 / 10)
    unlabelled = scores_of(Table(real, drawn), monkeypatch, artist, num_samples=400)
    show(unlabelled, torch.arange(400))
    artist.drawn = 0
    assert set(unlabelled.compute("val", artist)) == {"cnn_fid", "label_accuracy"}


def test_real_pictures_are_wanted_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    artist = Artist()
    scores = scores_of(Table(torch.randn(400, 4), torch.randn(400, 4)), monkeypatch, artist, num_samples=20)
    assert scores.needs_more("val")
    scores.update("val", numbered(REAL, torch.arange(12)), {})
    assert scores.needs_more("val")
    scores.update("val", numbered(REAL, torch.arange(12)), {})
    assert not scores.needs_more("val")
    scores.update("test", numbered(REAL, torch.arange(5)), {})
    scores.compute("test", artist)  # a set of five
    assert not scores.needs_more("test")


def test_every_n_validations_and_always_in_test(monkeypatch: pytest.MonkeyPatch) -> None:
    artist = Artist()
    network = Table(torch.randn(400, 4), torch.randn(400, 4))
    scores = scores_of(network, monkeypatch, artist, num_samples=20, every_n_validations=3)
    for stage in ("val", "test"):
        show(scores, torch.arange(40), stage)
    assert [bool(scores.compute("val", artist)) for _ in range(6)] == [True, False, False] * 2
    assert artist.drawn == 40  # nothing is drawn for nothing
    assert scores.compute("test", artist)
    assert scores.compute("test", artist)


def test_every_validation_that_is_not_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    artist = Artist()
    artist.trainer.state.fn = "validate"
    network = Table(torch.randn(400, 4), torch.randn(400, 4))
    scores = scores_of(network, monkeypatch, artist, num_samples=20, every_n_validations=3)
    show(scores, torch.arange(40), "val")
    assert all(scores.compute("val", artist) for _ in range(3))


def test_inference_mode_and_autocast_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    artist = Artist()
    network = ReferenceClassifier(3, 4).eval().requires_grad_(False)
    artist.sample = lambda n, labels, generator: torch.randint(0, 256, (n, 3, 9, 9), generator=generator).byte()
    real = torch.randint(0, 256, (60, 3, 9, 9)).byte()
    values = []
    for inference in (False, True):
        scores = scores_of(network, monkeypatch, artist, num_samples=50, kid=True, inception_score=True)
        with torch.inference_mode(inference), torch.autocast("cpu", torch.bfloat16, enabled=inference):
            scores.update("val", real, {})
            values.append(scores.compute("val", artist))
        assert scores.compute("val", artist) == values[-1]  # in another mode than before
    assert values[0] == values[1]


def ranked(rank: int, folder: Path) -> list[dict[str, float]]:
    """One of two processes, with what the sampler deals it; 401 pictures and 5 chunks are uneven shares."""
    return everything(rank, 2)


def everything(rank: int, world_size: int) -> list[dict[str, float]]:
    """Two comparisons with 401 of 600 pictures, and one of a set so small that a rank has neither real nor drawn ones."""
    rows = torch.randn(2, 600, 4, generator=torch.Generator().manual_seed(0))
    results = []
    with pytest.MonkeyPatch.context() as patch:
        artist = Artist(num_classes=4, rank=rank, world_size=world_size, rows=600)
        options = {"kid": True, "inception_score": True}
        scores = scores_of(Table(*rows), patch, artist, num_samples=401, batch_size=90, **options)
        show(scores, torch.arange(rank, 600, world_size), labels=torch.arange(600) % 4)
        results += [scores.compute("val", artist) for _ in range(2)]
        few = scores_of(Table(*rows), patch, artist, num_samples=20, **options)
        show(few, torch.arange(rank, 3, world_size), "test")
        results.append(few.compute("test", artist))
    return results


def test_two_processes_are_one(tmp_path: Path) -> None:
    """With a real gather: the same pictures are drawn, and each counts once."""
    alone, one, two = everything(0, 1), *on_two_ranks(ranked, tmp_path)
    assert one == two
    for mine, theirs in zip(alone, one, strict=True):
        split = mine.pop("cnn_is"), theirs.pop("cnn_is")  # in ten parts, of another order
        assert split[0] == pytest.approx(split[1], rel=0.1)
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_mistakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for options, message in (
        ({"num_samples": 1}, "model.scores.num_samples must be at least 2, got 1"),
        ({"every_n_validations": 0}, "model.scores.every_n_validations must be at least 1, got 0"),
        ({"fid": False}, "computes none of"),
    ):
        with pytest.raises(UsageError, match=message):
            SampleScores(**options)
    artist = Artist()
    scores = scores_of(Table(torch.randn(9, 4), torch.randn(9, 4)), monkeypatch, artist)
    show(scores, torch.arange(1))
    with pytest.raises(UsageError, match="at least 2 real images of the val split, got 1"):
        scores.compute("val", artist)
    artist.trainer.datamodule = None
    with pytest.raises(UsageError, match="needs a datamodule"):
        SampleScores().prepare(artist)
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install .*\[fid\]"):
        SampleScores("inception").prepare(artist)
    monkeypatch.setattr(inception, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match="nowhere.pth does not exist; download https://"):
        SampleScores("inception", inception_weights=str(tmp_path / "nowhere.pth")).prepare(artist)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="bad.pth cannot be loaded .*; download https://"):
        SampleScores("inception", inception_weights=str(tmp_path / "bad.pth")).prepare(artist)


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is None, reason="needs torch-fidelity")
def test_inception_with_weights_from_a_file(tmp_path: Path) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *args: None)
        network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    artist = Artist()
    artist.sample = lambda n, labels, generator: torch.randint(0, 256, (n, 1, 8, 8), generator=generator).byte()
    options = {"num_samples": 2, "fid": False, "kid": True, "inception_score": True}
    scores = SampleScores("inception", inception_weights=str(tmp_path / "weights.pth"), **options)
    scores.prepare(artist)
    scores.update("test", torch.randint(0, 256, (2, 1, 8, 8)).byte(), {})
    values = scores.compute("test", artist)
    assert set(values) == {"kid", "is"}
    assert all(math.isfinite(value) for value in values.values())
