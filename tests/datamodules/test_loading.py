"""Order of samples, augmentation and resuming of loaders."""

import multiprocessing
import os
import signal
from threading import Timer
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from darkroom.datamodules.loading import KeyedDataset, ResumableLoader, SeededSampler, keyed_rng
from darkroom.errors import UsageError


class Pixels(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        ramp = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
        return {"image": ramp + index, "mask": ramp[0] + index, "instances": ramp[0].int() + index}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_share_samples_of_an_epoch(ranks: int) -> None:
    training = [SeededSampler(10, shuffle=True, seed=0, rank=r, world_size=ranks) for r in range(ranks)]
    assert len({len(list(sampler)) for sampler in training}) == 1  # the same number, or ranks would hang
    assert len({key for sampler in training for key in sampler}) == 10 // ranks * ranks
    evaluation = [SeededSampler(10, shuffle=False, seed=0, rank=r, world_size=ranks) for r in range(ranks)]
    assert sorted(index for sampler in evaluation for _, index in sampler) == list(range(10))  # each exactly once
    assert all(len(list(sampler)) == len(sampler) for sampler in training + evaluation)


def test_order_depends_only_on_seed_and_epoch() -> None:
    orders = {(s, e): tuple(SeededSampler(10, shuffle=True, seed=s).order(e)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert orders[2, 1] == tuple(SeededSampler(10, shuffle=True, seed=2).order(1))


def test_augmentation_depends_only_on_seed_epoch_and_index() -> None:
    data = KeyedDataset(Pixels(), v2.RandomCrop(2), seed=0)
    torch.manual_seed(1)
    first = [data[3, i]["image"] for i in range(10)]
    torch.manual_seed(2)
    assert all(torch.equal(a, data[3, i]["image"]) for i, a in enumerate(first))
    assert not all(torch.equal(a, data[4, i]["image"]) for i, a in enumerate(first))
    other = KeyedDataset(Pixels(), v2.RandomCrop(2), seed=1)
    assert not all(torch.equal(a, other[3, i]["image"]) for i, a in enumerate(first))


def test_image_and_mask_are_transformed_together() -> None:
    data = KeyedDataset(Pixels(), v2.Compose([v2.RandomCrop(2), v2.RandomHorizontalFlip()]), seed=0)
    for index in range(10):
        sample = data[0, index]
        assert torch.equal(sample["image"][0], sample["mask"])
        assert torch.equal(sample["instances"], sample["mask"].int())


@pytest.mark.parametrize("transform", [v2.ToDtype(torch.float32, scale=True), v2.ToPILImage()])
def test_augmentation_to_float_or_pil_raises(transform: v2.Transform) -> None:
    with pytest.raises(
        UsageError, match="data.augment must return images of torch.uint8, .* the datamodule converts and normalizes"
    ):
        KeyedDataset(Pixels(), transform)[0, 1]


def test_loading_keeps_global_rng() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with keyed_rng(1, 2, 3):
        torch.rand(100)
    for _ in ResumableLoader(KeyedDataset(Pixels(), v2.RandomCrop(2)), batch_size=2):
        pass
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_resumes_within_epoch(workers: int) -> None:
    def loader() -> ResumableLoader:
        sampler = SeededSampler(10, shuffle=True, seed=0)
        sampler.set_epoch(2)
        return ResumableLoader(KeyedDataset(Pixels()), batch_size=2, sampler=sampler, num_workers=workers)

    whole = [batch["image"] for batch in loader()]
    interrupted = loader()
    iterator = iter(interrupted)
    seen = [next(iterator)["image"] for _ in range(2)]
    continued = loader()
    continued.load_state_dict(interrupted.state_dict())
    seen += [batch["image"] for batch in continued]
    assert all(torch.equal(a, b) for a, b in zip(whole, seen, strict=True))
    assert len(list(continued)) == 5  # the next epoch is complete


def loader_of_rank(rank: int, ranks: int, batch_size: int, seed: int = 0, **kwargs: Any) -> ResumableLoader:
    sampler = SeededSampler(48, shuffle=True, seed=seed, rank=rank, world_size=ranks, batch_size=batch_size, **kwargs)
    sampler.set_epoch(1)
    return ResumableLoader(Indices(), batch_size=batch_size, sampler=sampler, drop_last=True)


class Indices(Dataset):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, key: tuple[int, int]) -> dict:
        return {"index": key[1]}


@pytest.mark.parametrize("before", [(1, 8), (2, 4), (2, 8), (3, 4)])
@pytest.mark.parametrize("after", [(1, 8), (1, 4), (2, 4), (4, 2), (3, 1)])
def test_resumed_epoch_uses_each_sample_once(before: tuple[int, int], after: tuple[int, int]) -> None:
    seen: list[int] = []
    for rank in range(before[0]):
        first = loader_of_rank(rank, *before)
        iterator = iter(first)
        seen += [index for _ in range(2) for index in next(iterator)["index"].tolist()]
    position = first.state_dict()
    for rank in range(after[0]):
        loader = loader_of_rank(rank, *after)
        loader.load_state_dict(position)
        batches = [batch["index"].tolist() for batch in loader]
        assert loader.batches_before(position["samples"]) + len(batches) == len(loader)
        seen += [index for batch in batches for index in batch]
    assert len(seen) == len(set(seen)) > 48 - after[0] * after[1]  # less than a step is left over


def test_positions_of_previous_version_count_batches() -> None:
    loader = loader_of_rank(0, 1, 8)
    loader.load_state_dict({"epoch": 1, "batches": 2})
    assert len(list(loader)) == 4


def test_position_under_another_seed_raises() -> None:
    loader = loader_of_rank(0, 1, 8)
    iter(loader).__next__()
    with pytest.raises(UsageError, match=r"written under data.seed 0, but this fit has 1, .* resume with 0"):
        loader_of_rank(0, 1, 8, seed=1).load_state_dict(loader.state_dict())


def test_position_within_epoch_of_grouped_samples_keeps_batches() -> None:
    groups = [index % 2 for index in range(48)]
    loader = loader_of_rank(0, 1, 8, groups=groups)
    iter(loader).__next__()
    with pytest.raises(UsageError, match="samples of a step 8, but this fit has 4"):
        loader_of_rank(0, 1, 4, groups=groups).load_state_dict(loader.state_dict())
    assert list(loader)  # to its end, where the next epoch may have batches of another size
    loader_of_rank(0, 1, 4, groups=groups).load_state_dict(loader.state_dict())


def test_broken_connection_of_a_killed_worker_is_reported_as_the_killed_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    others = multiprocessing.active_children()

    def find_connection_broken(*args: object) -> None:  # the kernel closes it before it reports the death
        for worker in set(multiprocessing.active_children()) - set(others):
            Timer(0.1, os.kill, (worker.pid, signal.SIGKILL)).start()
        raise ConnectionResetError

    monkeypatch.setattr("multiprocessing.resource_sharer._ResourceSharer.get_connection", find_connection_broken)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) is killed by signal: Killed"):
        next(iter(ResumableLoader(Pixels(), num_workers=1)))
