"""Prompts: seeds, labels and captions of the images to sample."""

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


def test_batch_contains_seed_index_and_label() -> None:
    first, second = batches(count=5, batch_size=3, labels=[2, 0])
    assert first.keys() == {"seed", "index", "label"}
    assert first["seed"].dtype == first["index"].dtype == first["label"].dtype == torch.int64
    assert (first["seed"] >= 0).all()
    assert torch.cat([first["index"], second["index"]]).tolist() == [0, 1, 2, 3, 4]
    assert torch.cat([first["label"], second["label"]]).tolist() == [2, 0, 2, 0, 2]


def test_seeds_depend_only_on_seed_and_index() -> None:
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
def test_count_defaults_to_number_of_prompts(given: dict[str, Any], count: int) -> None:
    (batch,) = batches(**given)
    assert len(batch["index"]) == count
    assert ("label" in batch, "caption" in batch) == ("labels" in given, "captions" in given)


def test_captions_are_cycled() -> None:
    (batch,) = batches(captions=["a", "b"], labels=[5], count=3)
    assert batch["caption"] == ["a", "b", "a"]
    assert batch["label"].tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "data.count must be at least 1, got 0"),
        ({"labels": []}, "data.labels is empty"),
        ({"captions": []}, "data.captions is empty"),
        ({"labels": [3, -1]}, "data.labels must be at least 0, got -1"),
        ({"seed": -1}, "data.seed must be at least 0, got -1"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
    ],
)
def test_invalid_prompts_raise(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Prompts(**wrong)


class Echo(LightningModule):
    """Module whose predictions are the batches."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        return batch

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Exist for the Trainer's checks."""


def test_prompts_support_only_predict(tmp_path: Path) -> None:
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=tmp_path, **settings)
    captions = trainer.predict(Echo(), Prompts(count=3, batch_size=2, labels=[0]))
    assert [len(batch["seed"]) for batch in captions] == [2, 1]
    with pytest.raises(UsageError, match="Prompts .* works with predict alone, not with test"):
        trainer.test(Echo(), Prompts())


def test_value_range_is_that_of_generative_methods() -> None:
    data = Prompts()
    assert data.value_range == (-1.0, 1.0)
    assert data.image_shape is data.num_classes is None
    assert torch.equal(data.denormalize(torch.full((3, 2, 2), -1.0)), torch.zeros(3, 2, 2))
