"""Prompts: which images a trained model should draw."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from darkroom.datamodules.captions.prompts import Prompts
from darkroom.errors import UsageError


def batches(rank: int = 0, ranks: int = 1, **kwargs: Any) -> list[dict[str, Any]]:
    data = Prompts(**kwargs)
    data.setup("predict")
    loader = data.predict_dataloader()
    loader.sampler.rank, loader.sampler.num_replicas = rank, ranks
    return [data.on_after_batch_transfer(batch) for batch in loader]


def test_a_batch_says_what_to_draw() -> None:
    first, second = batches(count=5, batch_size=3, labels=[2, 0])
    assert first.keys() == {"seed", "index", "label"}
    assert first["seed"].dtype == first["index"].dtype == first["label"].dtype == torch.int64
    assert (first["seed"] >= 0).all()
    assert torch.cat([first["index"], second["index"]]).tolist() == [0, 1, 2, 3, 4]
    assert torch.cat([first["label"], second["label"]]).tolist() == [2, 0, 2, 0, 2]


def test_seeds_depend_on_seed_and_index_alone() -> None:
    def seeds(**kwargs: Any) -> dict[int, int]:
        found = [(batch["index"].tolist(), batch["seed"].tolist()) for batch in batches(**kwargs)]
        return {i: s for indices, seeds in found for i, s in zip(indices, seeds, strict=True)}

    whole = seeds(count=10)
    assert len(set(whole.values())) == 10
    assert whole == seeds(count=10, batch_size=3)
    assert whole == seeds(count=10, rank=0, ranks=2) | seeds(count=10, rank=1, ranks=2)
    assert whole.items() < seeds(count=12).items()
    assert not set(whole.values()) & set(seeds(count=10, seed=1).values())
    assert whole[0] == 7896617691693857887  # the same on every machine


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({}, 16),
        ({"labels": [1, 2, 3]}, 3),
        ({"captions": ["a red circle"]}, 1),
        ({"labels": [1], "captions": ["a", "b"]}, 2),
        ({"labels": [1, 2, 3], "count": 2}, 2),
    ],
)
def test_how_many(given: dict[str, Any], count: int) -> None:
    (batch,) = batches(**given)
    assert len(batch["index"]) == count
    assert ("label" in batch, "caption" in batch) == ("labels" in given, "captions" in given)


def test_captions_are_taken_in_turn() -> None:
    (batch,) = batches(captions=["a", "b"], labels=[5], count=3)
    assert batch["caption"] == ["a", "b", "a"]
    assert batch["label"].tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": 0}, "data.count is 0; it must be at least 1"),
        ({"labels": []}, "data.labels is empty"),
        ({"captions": []}, "data.captions is empty"),
        ({"labels": [3, -1]}, "data.labels has -1; classes are counted from 0"),
        ({"seed": -1}, "data.seed is -1"),
        ({"batch_size": 0}, "data.batch_size is 0"),
    ],
)
def test_impossible_prompts_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Prompts(**wrong)


class Echo(LightningModule):
    """Gives back the batch."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        return batch

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Never reached."""


def test_a_trainer_predicts_with_it_and_nothing_else(tmp_path: Path) -> None:
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=tmp_path, **settings)
    drawn = trainer.predict(Echo(), Prompts(count=3, batch_size=2, labels=[0]))
    assert [len(batch["seed"]) for batch in drawn] == [2, 1]
    with pytest.raises(UsageError, match="Prompts is for predict, not for test"):
        trainer.test(Echo(), Prompts())


def test_pictures_are_drawn_in_the_range_of_generative_techniques() -> None:
    data = Prompts()
    assert data.value_range == (-1.0, 1.0)
    assert data.image_shape is data.num_classes is None
    assert torch.equal(data.denormalize(torch.full((3, 2, 2), -1.0)), torch.zeros(3, 2, 2))
