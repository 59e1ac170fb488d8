"""CaptionScores of a sampler with known errors, also over ranks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.metrics import caption_scores
from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores, shuffle_words
from darkroom.lightning_modules.metrics import attribute_judge
from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge
from tests.fakes.ranks import on_two_ranks

NAMES = ("kind", "colour")


class ByteJudge(AttributeJudge):
    """Judge that reads the attributes from the first two bytes of an image."""

    num_features = 4

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4].float()

    def attributes(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2].long()


class Sampler:
    """Sampler that encodes the numbers of the caption "kind 3 colour 5"; every fourth colour is wrong."""

    device = torch.device("cpu")

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=world_size,
            datamodule=SimpleNamespace(attribute_names=NAMES, form_names=("plain", "fine")),
            state=SimpleNamespace(fn="fit"),
        )
        self.sampled: list[tuple[str, float]] = []

    def sample(self, captions: list[str], *, generator: list[torch.Generator]) -> Tensor:
        noise = [torch.rand((), generator=one).item() for one in generator]
        self.sampled += zip(captions, noise, strict=True)
        images = torch.zeros(len(captions), 3, 2, 2, dtype=torch.uint8)
        for row, caption in enumerate(captions):
            words = caption.split()
            if words[::2] == ["kind", "colour"]:
                images[row, 0] = torch.tensor([[int(words[1]), int(words[3])], [0, int(200 * noise[row])]])
                images[row, 0, 0, 1] += int(words[3]) == 3
        return images

    def to_uint8(self, images: Tensor) -> Tensor:
        return images


def batch_of(index: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return real images; every tenth does not match its caption."""
    kind, colour = index // 4 % 5, index % 4
    captions = [f"kind {k} colour {c}" for k, c in zip(kind.tolist(), colour.tolist(), strict=True)]
    message = torch.stack([kind, torch.where(index % 8 == 0, -1, colour)], 1)
    images = torch.zeros(len(index), 3, 2, 2, dtype=torch.uint8)
    images[:, 0, 0] = torch.stack([kind + (index % 10 == 9), colour], 1).byte()
    images[:, 0, 1, 1] = (index * 37 % 200).byte()
    return images, {"caption": captions, "attributes": message, "held_out": index % 5 == 0, "form": index % 2}


def build_scores(sampler: Sampler, patch: pytest.MonkeyPatch, **options: Any) -> CaptionScores:
    patch.setattr(attribute_judge, "load_or_train_judge", lambda *args: (ByteJudge(), {"all": 1.0}))
    scores = CaptionScores(**options)
    scores.prepare(sampler)
    return scores


def add_real_images(scores: CaptionScores, index: Tensor, stage: str = "val") -> None:
    for part in index.split(7):
        scores.update(stage, *batch_of(part))


def test_all_metrics_match_known_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, index = Sampler(), torch.arange(200)
    scores = build_scores(sampler, monkeypatch, num_samples=200, batch_size=30, shuffled=True)
    add_real_images(scores, index)
    values = scores.compute("val", sampler)
    wrong, held_out, colour_said = index % 4 == 3, index % 5 == 0, index % 8 != 0
    plain = index % 2 == 0
    expected = {
        "prompt_accuracy_plain": (~wrong)[plain].float().mean(),
        "prompt_accuracy_fine": (~wrong)[~plain].float().mean(),
        "prompt_accuracy": (~wrong)[~held_out].float().mean(),
        "prompt_accuracy_held_out": (~wrong)[held_out].float().mean(),
        "prompt_kind": 1.0,
        "prompt_colour": (~wrong)[colour_said].float().mean(),
    }
    known = index % 10 != 9
    for end, of in {"": ~held_out, "_held_out": held_out, "_plain": plain, "_fine": ~plain}.items():
        expected[f"real_accuracy{end}"] = known[of].float().mean()
        assert values[f"shuffled_accuracy{end}"] < 0.5
    shuffled = {name: value for name, value in values.items() if name.startswith("shuffled")}
    assert values == {name: pytest.approx(float(value)) for name, value in expected.items()} | shuffled
    assert scores.compute("val", sampler) == values  # samples are not kept


def test_samples_use_first_captions_and_own_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = []
    for batch_size in (20, 7):
        sampler = Sampler()
        scores = build_scores(sampler, monkeypatch, num_samples=20, batch_size=batch_size)
        for _ in range(2):
            add_real_images(scores, torch.arange(40))
            assert not scores.needs_more("val")
            scores.compute("val", sampler)
        samples.append(sampler.sampled)
    assert samples[0] == samples[1]
    assert samples[0][:20] == samples[0][20:]
    assert [caption for caption, _ in samples[0][:20]] == batch_of(torch.arange(20))[1]["caption"]
    assert len({noise for _, noise in samples[0]}) == 20


def test_judged_samples_are_reported_with_number_seed_and_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, seen = Sampler(rank=1, world_size=2), []
    scores = build_scores(sampler, monkeypatch, num_samples=20, batch_size=4, seed=3)
    scores.on_judged = seen.append
    add_real_images(scores, torch.arange(1, 20, 2), "test")
    scores.compute("test", sampler)
    assert [number for one in seen for number in one.numbers] == list(range(1, 20, 2))
    for one in seen:
        _, batch = batch_of(torch.tensor(one.numbers))
        assert one.captions == batch["caption"]
        for values, name in ((one.stated, "attributes"), (one.held_out, "held_out"), (one.form, "form")):
            assert torch.equal(values, batch[name])
        assert torch.equal(one.judged, ByteJudge().attributes(one.images))
        noise = [torch.rand((), generator=torch.Generator().manual_seed(seed)).item() for seed in one.seeds]
        assert [(200 * value) // 1 for value in noise] == one.images[:, 0, 1, 1].tolist()
    scores.prepare(sampler)
    assert scores.on_judged is None


def test_clip_gets_samples_with_their_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, list[str]]] = []

    class Clip:
        def update(self, images: Tensor, captions: list[str]) -> None:
            seen.append((images, captions))

        def compute(self, device: torch.device) -> float:
            return 25.0

    monkeypatch.setattr(caption_scores, "ClipScore", lambda name: Clip())
    sampler = Sampler()
    scores = CaptionScores(accuracy=False, clip="folder", num_samples=10)
    scores.prepare(sampler)
    add_real_images(scores, torch.arange(10))
    assert scores.compute("val", sampler) == {"clip_score": 25.0}
    ((images, captions),) = seen
    assert images.shape == (10, 3, 2, 2)
    assert captions == batch_of(torch.arange(10))[1]["caption"]


def test_words_are_shuffled_deterministically() -> None:
    caption = "a small red circle left of a blue square"
    assert sorted(shuffle_words(caption, 0).split()) == sorted(caption.split())
    assert shuffle_words(caption, 0) == shuffle_words(caption, 0) != caption
    assert shuffle_words(caption, 0) != shuffle_words(caption, 1)


def compute_all(rank: int, world_size: int) -> list[dict[str, float]]:
    """Compute metrics of 41 of 60 images, and of a set so small that one rank has no image."""
    with pytest.MonkeyPatch.context() as patch:
        sampler = Sampler(rank, world_size)
        scores = build_scores(sampler, patch, num_samples=41, batch_size=9, shuffled=True, fid=True)
        add_real_images(scores, torch.arange(rank, 60, world_size))
        values = [scores.compute("val", sampler)]
        few = build_scores(sampler, patch, num_samples=20)
        if rank == 0:
            add_real_images(few, torch.arange(1), "test")
        return [*values, few.compute("test", sampler)]


def compute_on_rank(rank: int, folder: Path) -> list[dict[str, float]]:
    return compute_all(rank, 2)


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    alone, one, two = compute_all(0, 1), *on_two_ranks(compute_on_rank, tmp_path)
    assert one == two
    assert all(mine == pytest.approx(theirs, rel=1e-4) for mine, theirs in zip(alone, one, strict=True))


def test_invalid_arguments_raise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for options, message in (
        ({"accuracy": False}, "computes none of accuracy, fid and clip"),
        ({"accuracy": False, "fid": True, "shuffled": True}, "model.scores.shuffled"),
        ({"num_samples": 0}, "model.scores.num_samples must be at least 1, got 0"),
    ):
        with pytest.raises(UsageError, match=message):
            CaptionScores(**options)
    sampler = Sampler()
    scores = build_scores(sampler, monkeypatch)
    with pytest.raises(UsageError, match="at least 1 real images of the val split, got 0"):
        scores.compute("val", sampler)
    scores = build_scores(sampler, monkeypatch)
    with pytest.raises(UsageError, match="needs data with captions"):
        scores.update("val", torch.zeros(2, 3, 2, 2, dtype=torch.uint8), {"label": torch.zeros(2)})
    sampler.trainer.datamodule = None
    with pytest.raises(UsageError, match="needs a datamodule"):
        scores.prepare(sampler)
    pytest.importorskip("transformers")
    with pytest.raises(UsageError, match="model.scores.clip: .*nowhere cannot be loaded.*hf download"):
        CaptionScores(accuracy=False, clip=str(tmp_path / "nowhere")).prepare(sampler)
