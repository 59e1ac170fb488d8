"""ShardedCaptions: streaming, shuffling, splitting over ranks and workers, and resuming."""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darkroom.cli.commands.shards import write_shards
from darkroom.datamodules.captions.caption_folder import CaptionFolder
from darkroom.datamodules.captions.shards import reader
from darkroom.datamodules.captions.shards.web_shards import ShardedCaptions
from darkroom.datamodules.loading import ShardSampler
from darkroom.errors import DataError, UsageError
from darkroom.paths import install_command
from tests.contracts.captions import CaptionedDataContract
from tests.fakes.captions import caption_folder, caption_of, web_shards, write_shard


class TestShards(CaptionedDataContract):
    val_is_test = True

    def build(self, tmp_path: Path, **kwargs: Any) -> ShardedCaptions:
        return ShardedCaptions(root=str(web_shards(tmp_path)), size=16, streams=4, buffer=12, **kwargs)

    def test_vocabulary_is_built_from_training_captions(self, data: ShardedCaptions) -> None:
        """Check the words of the first shard."""
        assert {"red", "number", "6"} <= set(data.words)
        assert "7" not in data.words

    def test_captions_belong_to_their_images(self, data: ShardedCaptions) -> None:
        for sample in data.dataset("train"):
            index = int(sample["path"][-10:-4])
            assert sample["caption"] == caption_of(index)
            assert sample["captions"] == (caption_of(index), f"number {index}")[: 1 + (index % 3 == 0)]
            assert sample["image"][0, 0, 0] == index * 5

    def test_samples_do_not_depend_on_access_order(self, data: ShardedCaptions) -> None:
        dataset, other = data.dataset("train"), data.dataset("train")
        straight = [dataset[index]["path"] for index in range(34)]
        order = np.random.default_rng(0).permutation(34).tolist()
        assert [other[index]["path"] for index in order] == [straight[index] for index in order]


def sampler(sizes: list[int], **kwargs: Any) -> ShardSampler:
    return ShardSampler(sizes, **{"shuffle": True, "seed": 0, "batch_size": 4, "streams": 4, "window": 6} | kwargs)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[200], [30, 40, 1, 50, 60], [3, 2], [1]])
def test_ranks_share_samples_of_an_epoch(ranks: int, sizes: list[int]) -> None:
    training = [sampler(sizes, rank=rank, world_size=ranks) for rank in range(ranks)]
    keys = [list(one) for one in training]
    assert len({len(some) for some in keys}) == 1  # the same number, or ranks would hang
    assert [len(some) for some in keys] == [len(one) for one in training]
    seen = [index for some in keys for _, index in some]
    assert len(set(seen)) == len(seen) > sum(sizes) - ranks * training[0].streams
    evaluation = [sampler(sizes, shuffle=False, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert sorted(index for one in evaluation for _, index in one) == list(range(sum(sizes)))  # each exactly once
    assert all(len(list(one)) == len(one) for one in evaluation)


def test_order_depends_only_on_seed_and_epoch() -> None:
    sizes = [30, 40, 50]
    orders = {(s, e): tuple(sampler(sizes, seed=s).order(e)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert orders[2, 1] == tuple(sampler(sizes, seed=2).order(1))


def test_samples_and_shards_are_shuffled() -> None:
    sizes, window = [20] * 10, 15
    one = sampler(sizes, streams=1, window=window)
    order = np.array(one.order(3))
    shards_in_order = list(dict.fromkeys((np.sort(order.reshape(-1, 20), axis=1)[:, 10] // 20).tolist()))
    assert len(shards_in_order) > 8
    assert shards_in_order != sorted(shards_in_order)
    alone = np.array(sampler([200], streams=1, window=window).order(3))
    moved = np.abs(alone - np.arange(200))
    assert 3 < moved.mean() < moved.max() < window


def test_workers_read_disjoint_parts() -> None:
    """Check that each of two or four workers reads its own parts of the epoch."""
    order = np.array(sampler([160], window=1, shuffle=False).order(0)).reshape(-1, 4)
    for workers in (2, 4):
        parts = [set(order[worker::workers].ravel() // 40) for worker in range(workers)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 4


def loaded(root: Path, epoch: int = 1, **kwargs: Any) -> Any:
    data = ShardedCaptions(root=str(root), size=8, **{"batch_size": 2, "streams": 4, "buffer": 12} | kwargs)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return loader


def paths_and_captions(batch: dict[str, Any]) -> list[tuple[str, str]]:
    return list(zip(batch["path"], batch["caption"], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_epoch_equals_uninterrupted(tmp_path: Path, workers: int) -> None:
    """Check images and random captions after any batch, also with another number of workers."""
    web_shards(tmp_path)
    whole = [paths_and_captions(batch) for batch in loaded(tmp_path, num_workers=0)]
    assert len(whole) == 16
    for done in (1, 6, 15) if workers == 0 else (6,):
        interrupted = iter(loader := loaded(tmp_path, num_workers=workers))
        seen = [paths_and_captions(next(interrupted)) for _ in range(done)]
        continued = loaded(tmp_path, num_workers=2 - workers)
        continued.load_state_dict(loader.state_dict())
        assert seen + [paths_and_captions(batch) for batch in continued] == whole


def test_workers_do_not_share_file_handles(tmp_path: Path) -> None:
    loader = loaded(web_shards(tmp_path), num_workers=2)
    whole = [paths_and_captions(batch) for batch in loaded(tmp_path, num_workers=0)]
    _ = loader.dataset[0]  # leaves a shard open
    assert [paths_and_captions(batch) for batch in loader] == whole


def test_shards_are_read_once_sequentially(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, kept = Counter(), []
    original, forget = reader.open_address, reader.ShardReader.take
    monkeypatch.setattr(reader, "open_address", lambda address: (opened.update([address]), original(address))[1])

    def take(reader: reader.ShardReader, position: int) -> Any:
        sample = forget(reader, position)
        kept.append(len(reader.passed))
        return sample

    monkeypatch.setattr(reader.ShardReader, "take", take)
    web_shards(tmp_path, train=(30, 30, 30, 30), val=(2,))
    loader = loaded(tmp_path, num_workers=0, streams=2, buffer=10)
    opened.clear()
    assert len(list(loader)) == 60
    assert sorted(opened.values()) == [1, 1, 1, 1]
    assert max(kept) <= 5  # of each stream
    readers = loader.dataset.dataset._readers
    assert sum(len(reader.passed) for reader in readers) == 0
    opened.clear()
    loader.load_state_dict({"epoch": 1, "batches": 40})
    assert len(list(loader)) == 20
    assert sum(opened.values()) <= 3  # consumed shards are not opened again


def test_workers_are_limited_by_streams(tmp_path: Path) -> None:
    assert loaded(web_shards(tmp_path), num_workers=3).num_workers == 2
    assert loaded(tmp_path, num_workers=8).num_workers == 4


def test_write_shards_preserves_other_dataset(tmp_path: Path) -> None:
    source = CaptionFolder(root=str(caption_folder(tmp_path / "a")), size=16, caption_columns=["caption", "also"])
    sizes = write_shards(source, tmp_path / "b", samples_per_shard=6)
    assert sizes == {"train-000000.tar": 6, "train-000001.tar": 6, "train-000002.tar": 4, "val-000000.tar": 2} | {
        "test-000000.tar": 2
    }
    data = ShardedCaptions(root=str(tmp_path / "b"), size=16)
    for split in ("train", "val", "test"):
        own = {s["caption"]: (s["image"], s.get("captions")) for s in source.dataset(split)}
        made = {s["caption"]: (s["image"], s.get("captions")) for s in data.dataset(split)}
        assert own.keys() == made.keys()
        assert all(torch.equal(own[key][0], made[key][0]) and own[key][1] == made[key][1] for key in own)
    with pytest.raises(UsageError, match="b has shards already"):
        write_shards(source, tmp_path / "b")
    (tmp_path / "b/shards.json").unlink()
    with pytest.raises(UsageError, match="b has shards but no shards.json, so they are incomplete; remove them"):
        write_shards(source, tmp_path / "b")
    with pytest.raises(UsageError, match="captions.tsv is a file"):
        write_shards(source, tmp_path / "a/captions.tsv")


def test_write_shards_can_be_retried_after_error(tmp_path: Path) -> None:
    source = CaptionFolder(root=str(caption_folder(tmp_path / "a")), size=16)
    made = source.dataset("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "dataset", lambda split: [{"image": made[0]["image"]}])
        with pytest.raises(DataError, match="CaptionFolder has no captions"):
            write_shards(source, tmp_path / "b")
        assert not (tmp_path / "b").exists()
        patch.setattr(source, "dataset", lambda split: [made[0], made[1] | {"image": None, "path": ""}])
        with pytest.raises(AttributeError):
            write_shards(source, tmp_path / "b")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["train-000000.tar.part"]
    assert sum(write_shards(source, tmp_path / "b").values()) == 20
    assert not list((tmp_path / "b").glob("*.part"))


def test_test_shards_are_used_when_present(tmp_path: Path) -> None:
    web_shards(tmp_path)
    assert len(ShardedCaptions(root=str(tmp_path)).dataset("test")) == 5
    write_shard(tmp_path / "test-000000.tar", range(3))
    assert len(ShardedCaptions(root=str(tmp_path)).dataset("test")) == 3
    assert len(ShardedCaptions(root=str(tmp_path)).dataset("predict")) == 3
    assert len(ShardedCaptions(root=str(tmp_path), test="val-*.tar").dataset("test")) == 5


def test_patterns_without_shards_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "open_address", lambda address: pytest.fail(f"{address} was opened"))
    with pytest.raises(UsageError, match=r"data.train is a-\{003..000\}.tar, a descending range; write \{000..003\}"):
        ShardedCaptions(train="a-{003..000}.tar")
    for pattern in ("/data/val-*.tar", "/data/val-{0..3}.tar"):
        with pytest.raises(UsageError, match="data.val must be names in data.root, without a folder, got /data/val-"):
            ShardedCaptions(val=pattern)
    with pytest.raises(
        UsageError, match=r"data.test is test-\*.tar, but the remote https://a.b cannot be listed; write NAME-"
    ):
        ShardedCaptions(root="https://a.b", train="a-{0..3}.tar", val="b-{0..3}.tar", test="test-*.tar")


def at(root: str) -> dict[str, str]:
    return {"root": root, "train": "train-{00..03}.tar", "val": "val-{00..01}.tar"}


def test_remote_shards_equal_local_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset")
    web_shards(tmp_path)
    local = [paths_and_captions(batch) for batch in loaded(tmp_path, num_workers=0)]
    pattern = f"pipe:cat {tmp_path}/train-{{000000..000003}}.tar"
    with pytest.raises(
        UsageError, match="data.train is pipe:cat .*, which runs a shell command.* DARKROOM_ALLOW_PIPE=1"
    ):
        loaded(tmp_path, train=pattern)
    monkeypatch.setenv("DARKROOM_ALLOW_PIPE", "1")
    with pytest.raises(
        DataError, match=r"shards.json: the number of samples of pipe:cat .* and 3 other shards is missing"
    ):
        loaded(tmp_path, train=pattern)
    sizes = {f"pipe:cat {tmp_path}/train-{number:06d}.tar": size for number, size in enumerate((7, 9, 8, 10))}
    (tmp_path / "shards.json").write_text(json.dumps(sizes))
    remote = [paths_and_captions(batch) for batch in loaded(tmp_path, num_workers=2, train=pattern)]
    assert [[caption for _, caption in batch] for batch in remote] == [
        [caption for _, caption in batch] for batch in local
    ]
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(DataError, match="pipe:cat .*train-000001.tar cannot be fetched .*; check data.root and the"):
        list(loaded(tmp_path, num_workers=0, train=pattern))
    with pytest.raises(UsageError, match="s3://bucket/shards.json cannot be opened .* use pipe:"):
        ShardedCaptions(**at("s3://bucket")).setup("fit")
    with pytest.raises(DataError, match=r"shards.json cannot be fetched \(.*\); check data.root and the network"):
        ShardedCaptions(**at(f"file:{tmp_path}/nowhere")).setup("fit")
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)
    with pytest.raises(UsageError, match=re.escape(f"needs the package webdataset: {install_command('shards')}")):
        ShardedCaptions(**at("https://nowhere.invalid/shards")).setup("fit")


def test_missing_or_damaged_shards_are_named(tmp_path: Path) -> None:
    def reading(root: Path, **kwargs: Any) -> None:
        list(loaded(root, num_workers=0, **kwargs))

    web_shards(tmp_path)
    with pytest.raises(DataError, match=r"has no shards trian-\*.tar; write them with darkroom shards"):
        reading(tmp_path, train="trian-*.tar")
    with pytest.raises(DataError, match=r"train-000000.tar has no shards train-\*.tar"):
        reading(tmp_path / "train-000000.tar")
    with pytest.raises(DataError, match="has no shards train-000004.tar, train-000005.tar"):
        reading(tmp_path, train="train-{000000..000005}.tar")
    (tmp_path / "shards.json").write_text('{"train-000001.tar": 12}')
    with pytest.raises(DataError, match=r"train-000001.tar has 9 samples, but shards.json states 12"):
        reading(tmp_path)
    (tmp_path / "shards.json").write_text('{"train-000001.tar": 8}')
    with pytest.raises(DataError, match=r"train-000001.tar has more samples, but shards.json states 8; correct"):
        reading(tmp_path)
    (tmp_path / "shards.json").write_text('{"train-000001.tar": "12"}')
    with pytest.raises(DataError, match=r"shards.json: must map the name of every shard to its number of samples"):
        reading(tmp_path)
    (tmp_path / "shards.json").unlink()
    write_shard(tmp_path / "train-000001.tar", range(4), png=b"no image")
    with pytest.raises(DataError, match=r"train-000001.tar/./00000\d.png cannot be read as an image"):
        reading(tmp_path)
    write_shard(tmp_path / "train-000001.tar", range(1, 3), txt=b" ")
    with pytest.raises(DataError, match=r"train-000001.tar/./00000\d has no caption, only png, txt"):
        reading(tmp_path)
    (tmp_path / "train-000001.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(DataError, match=r"train-000001.tar cannot be read as a shard"):
        reading(tmp_path)
    for settings in ({"streams": 0}, {"buffer": 0}, {"limit": 3}):
        with pytest.raises(UsageError, match=f"data.{next(iter(settings))} must be"):
            ShardedCaptions(root=str(tmp_path), **settings)
