"""Proposals: deterministic boxes and order, a robust cache, recall, and the command."""

import ctypes
import multiprocessing
import os
import pickle
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from darkroom.cli.commands.proposals import main
from darkroom.datamodules.detection import base
from darkroom.datamodules.proposals import cache
from darkroom.datamodules.proposals.cache import ProposalCache, WithProposals, fill
from darkroom.datamodules.proposals.methods import GridProposals, Proposals, SelectiveSearch, order_boxes
from darkroom.datamodules.proposals.recall import as_markdown, recall
from darkroom.datamodules.shapes.detection import DetectionScenes, ShapesDetection
from darkroom.datamodules.shapes.scenes import SceneGenerator
from darkroom.errors import DataError, UsageError
from darkroom.paths import install_command, user_cache


class Quarters(Proposals):
    """Propose the quarters of an image, one of them twice; counts calls and can be slowed down."""

    calls: ClassVar[int] = 0

    def __init__(self, limit: int | None = None, pause: float = 0.0) -> None:
        super().__init__(min_side=1, limit=limit)
        self.pause = pause

    def candidates(self, image: np.ndarray) -> np.ndarray:
        Quarters.calls += 1
        time.sleep(self.pause)
        height, width = image.shape[0] / 2, image.shape[1] / 2
        corners = [(0, 0), (width, 0), (0, height), (width, height), (0, 0)]
        return np.array([[x, y, x + width, y + height] for x, y in corners])


class KilledWorker(Quarters):
    def candidates(self, image: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().candidates(image)


class Unreadable(Dataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise DataError("image.png cannot be read")


def scenes(count: int = 8, side: int = 64) -> DetectionScenes:
    return DetectionScenes(SceneGenerator(side=side), "train", count)


def scene_image(index: int = 0, side: int = 64) -> np.ndarray:
    return np.ascontiguousarray(scenes(index + 1, side)[index]["image"].permute(1, 2, 0).numpy())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_valid(boxes: np.ndarray, height: int, width: int) -> None:
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(np.unique(boxes, axis=0)), 4)
    assert boxes[:, :2].min() >= 0
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height


# --- order ------------------------------------------------------------------------------------------------------------


def test_order_depends_only_on_boxes() -> None:
    boxes = np.random.default_rng(0).integers(0, 30, (200, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2] + 1
    ordered = order_boxes(boxes)
    shuffled = np.random.default_rng(1).permutation(np.concatenate([boxes, boxes[:50]]))
    assert ordered.tobytes() == order_boxes(shuffled).tobytes()
    assert {tuple(box) for box in ordered} == {tuple(box) for box in boxes}


def test_order_matches_cached_files() -> None:
    """Check the order of cached files. If this fails, increase _ORDER, so that old files are not read."""
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30], [20, 20, 40, 40], [-0.0, 0, 10, 11], [5, 5, 25, 25]]
    order = [[20, 0, 30, 10], [0, 0, 10, 11], [0, 20, 10, 30], [20, 20, 40, 40], [5, 5, 25, 25], [0, 0, 10, 10]]
    assert order_boxes(np.array(boxes)).tolist() == order


# --- Selective Search -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_selective_search_is_deterministic(mode: str) -> None:
    pytest.importorskip("cv2")
    method, image = SelectiveSearch(mode, min_side=4, scale=1.5), scene_image(1)[:50]
    raw = [method.candidates(image) for _ in range(2)]
    assert not np.array_equal(*raw)
    boxes = method(image)
    assert len(boxes) > 10
    assert_valid(boxes, 50, 64)
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 4
    assert boxes.tobytes() == method(image).tobytes()
    assert np.array_equal(SelectiveSearch(mode, min_side=4, scale=1.5, limit=7)(image), boxes[:7])


def test_selective_search_finds_salient_object() -> None:
    pytest.importorskip("cv2")
    image = np.full((80, 96, 3), 40, np.uint8)
    image[30:60, 20:70] = (200, 30, 30)
    for method in (SelectiveSearch(), SelectiveSearch(scale=2), SelectiveSearch(max_side=48)):
        (found,) = recall([method(image)], [np.array([[20, 30, 70, 60]])], counts=[10])
        assert found.best_overlap > 0.85
        assert [0, 0, 96, 80] in method(image).tolist()


def test_similarities_of_opencv_match_equations() -> None:
    """Compare with values by hand: equations 1, 2, 4 and 5 of Uijlings et al. 2013, and equation 3 for equal regions.

    Three regions of 4 x 8 pixels, side by side: black; black with a white lower half; white.
    """
    cv2 = pytest.importorskip("cv2")
    image, regions = np.zeros((8, 12, 3), np.uint8), np.repeat([[0, 1, 2]], [4, 4, 4], 1).repeat(8, 0).astype(np.int32)
    image[4:, 4:8] = image[:, 8:] = 255

    def measure(name: str, image: np.ndarray = image, regions: np.ndarray = regions) -> Any:
        strategy = getattr(cv2.ximgproc.segmentation, f"createSelectiveSearchSegmentationStrategy{name}")()
        strategy.setImage(image, regions, np.bincount(regions.ravel())[None].astype(np.int32))
        return strategy

    pairs = ((0, 1), (1, 2), (0, 2))
    colour = measure("Color")
    assert [colour.get(*pair) for pair in pairs] == pytest.approx([0.5, 0.5, 0.0])  # eq. 1
    colour.merge(0, 1)
    assert colour.get(0, 2) == pytest.approx((32 * 0 + 32 * 0.5) / 64)  # eq. 2: a quarter of both is white
    ramp = np.tile(np.arange(12, dtype=np.uint8)[:, None] * 20, (1, 12))[..., None].repeat(3, 2)
    thirds = np.tile(np.repeat(np.arange(3, dtype=np.int32), 4), (12, 1))
    texture = measure("Texture", ramp, thirds)
    assert texture.get(0, 1) < 1
    assert texture.get(1, 1) == pytest.approx(1.0)  # eq. 3: histograms sum to 1
    assert texture.get(0, 1) == pytest.approx(texture.get(1, 0))
    assert [measure("Size").get(*pair) for pair in pairs] == pytest.approx([1 - 64 / 96] * 3)  # eq. 4
    assert [measure("Fill").get(*pair) for pair in pairs] == pytest.approx([1, 1, 1 - (96 - 64) / 96])  # eq. 5
    apart = np.zeros((8, 12), np.int32)
    apart[:4, :6], apart[7, 11] = 1, 2  # 24 pixels and one, whose box is the image
    assert measure("Size", image, apart).get(1, 2) == pytest.approx(1 - 25 / 96)
    assert measure("Fill", image, apart).get(1, 2) == pytest.approx(1 - (96 - 25) / 96)


def test_selective_search_passes_bgr_to_opencv() -> None:
    """Check against OpenCV with BGR input: swapped channels change hue, similarity and boxes."""
    cv2 = pytest.importorskip("cv2")
    image = scene_image(1)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    search.switchToSelectiveSearchFast()
    x, y, w, h = search.process().T
    assert np.array_equal(order_boxes(np.stack([x, y, x + w, y + h], 1)), SelectiveSearch(min_side=0)(image))


def test_selective_search_restores_opencv_threads_and_is_fork_safe() -> None:
    cv2 = pytest.importorskip("cv2")
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (5, 5), 1)  # starts the threads
        child = multiprocessing.get_context("fork").Process(
            target=SelectiveSearch(), args=(scene_image(),), daemon=True
        )
        child.start()
        child.join(20)
        assert child.exitcode == 0
        SelectiveSearch()(scene_image())
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("cv2", [None, SimpleNamespace(__version__="5.0.0")])
def test_missing_opencv_names_install_command(monkeypatch: pytest.MonkeyPatch, cv2: Any) -> None:
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    message = f"SelectiveSearch needs OpenCV's contrib modules: {install_command('proposals')}"
    with pytest.raises(UsageError, match=re.escape(message)):
        SelectiveSearch()(scene_image())
    with pytest.raises(UsageError, match=re.escape(message)):  # before any worker process
        ProposalCache(SelectiveSearch(), "cache")


def test_selective_search_falls_back_to_whole_image() -> None:
    pytest.importorskip("cv2")
    assert SelectiveSearch(min_side=20)(scene_image()[:10]).tolist() == [[0, 0, 64, 10]]


def test_images_must_be_uint8_rgb() -> None:
    for image in (np.zeros((8, 8), np.uint8), np.zeros((3, 8, 9), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(UsageError, match=r"uint8 \(H, W, 3\), in colour, got (uint8|float32) \(\d"):
            Quarters()(image)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SelectiveSearch(limit=0), "data.proposals.limit must be at least 1, or null for all boxes, got 0"),
        (lambda: SelectiveSearch(min_side=-1), "data.proposals.min_side must be at least 0 pixels, got -1"),
        (lambda: SelectiveSearch(scale=0), "data.proposals.scale must be above 0, got 0"),
        (
            lambda: SelectiveSearch(increment_k=0),
            "data.proposals.increment_k must be above 0, got 0",
        ),  # OpenCV would not return
        (lambda: GridProposals(sides=[]), r"data.proposals.sides must be"),
        (lambda: GridProposals(stride=0), "data.proposals.stride must be"),
        (lambda: fill(scenes(), ProposalCache(Quarters(), "cache"), -1), "data.proposal_workers must be at least 0"),
    ],
)
def test_invalid_arguments_name_key(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


# --- the grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (12, 90)])
def test_grid_covers_image(height: int, width: int) -> None:
    method = GridProposals(sides=[0.3, 0.6], limit=None)
    boxes = method(np.zeros((height, width, 3), np.uint8))
    assert_valid(boxes, height, width)
    assert boxes.min(0)[:2].tolist() == [0, 0]
    assert boxes.max(0)[2:].tolist() == [width, height]
    assert boxes.tobytes() == method(np.full((height, width, 3), 7, np.uint8)).tobytes()
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes.round().astype(int):
        covered[y0:y1, x0:x1] = True
    assert covered.all()


def test_grid_has_requested_sizes_and_aspect_ratios() -> None:
    boxes = GridProposals(sides=[0.25, 0.5], aspect_ratios=[0.5, 2], stride=0.5)(np.zeros((100, 200, 3), np.uint8))
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sorted(set((sides[:, 0] / sides[:, 1]).round(3).tolist())) == [0.5, 2]
    assert sorted(set(np.sqrt(sides.prod(1)).round(2).tolist())) == [25, 50]
    objects = np.random.default_rng(0).uniform(0, 1, (200, 4)) * [60, 20, 20, 20] + [0, 0, 30, 30]
    objects[:, 2:] += objects[:, :2]
    (found,) = recall([GridProposals()(np.zeros((100, 100, 3), np.uint8))], [objects], counts=[2000])
    assert found.recall[0.5] == 1


def test_grid_is_cached_once_per_image_shape(tmp_path: Path) -> None:
    cache = ProposalCache(GridProposals(), tmp_path)
    fill(scenes(), cache)
    assert not contents(tmp_path)  # made on demand
    for image in (scene_image(0), scene_image(1), scene_image(0)[:40]):
        assert np.array_equal(cache.get(image), GridProposals()(image))
    assert len(contents(tmp_path)) == 2


# --- the cache --------------------------------------------------------------------------------------------------------


def test_cache_hit_computes_nothing(tmp_path: Path) -> None:
    cache, calls = ProposalCache(Quarters(), tmp_path), Quarters.calls
    first = cache.get(scene_image())
    assert Quarters.calls == calls + 1
    assert first.tobytes() == cache.get(scene_image()).tobytes() == Quarters()(scene_image()).tobytes()
    calls = Quarters.calls
    assert np.array_equal(ProposalCache(Quarters(limit=2), tmp_path).get(scene_image()), first[:2])
    assert Quarters.calls == calls
    assert len(contents(tmp_path)) == 1


def test_cache_key_depends_on_image_and_parameters(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    searches = [SelectiveSearch("quality")]
    searches += [SelectiveSearch(**{name: 3}) for name in ("min_side", "scale", "max_side", "base_k", "increment_k")]
    methods = [SelectiveSearch(), SelectiveSearch(sigma=1), Quarters(), Quarters(pause=1), *searches]
    names = {ProposalCache(method, tmp_path).path(scene_image()) for method in methods}
    assert len(names) == len(methods)
    assert ProposalCache(SelectiveSearch(scale=1), tmp_path).path(scene_image()) in names
    cache = ProposalCache(Quarters(), tmp_path)
    assert cache.path(scene_image(0)) != cache.path(scene_image(1))
    assert cache.path(np.zeros((4, 8, 3), np.uint8)) != cache.path(np.zeros((8, 4, 3), np.uint8))
    assert cache.path(scene_image()) == cache.path(np.asfortranarray(scene_image()))


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "zeros", "wrong shape"])
def test_damaged_cache_files_are_recomputed(tmp_path: Path, damage: str) -> None:
    cache = ProposalCache(Quarters(), tmp_path)
    boxes, path = cache.get(scene_image()), cache.path(scene_image())
    whole = path.read_bytes()
    spoilt = {"empty": b"", "cut": whole[:-5], "garbage": b"PK\x03\x04" + whole[4:], "zeros": bytes(len(whole))}
    path.write_bytes(spoilt.get(damage, b""))
    if damage == "wrong shape":
        np.save(path, np.zeros((4, 5), np.float32))
    assert np.array_equal(cache.get(scene_image()), boxes)
    assert path.read_bytes() == whole
    assert len(contents(tmp_path)) == 1


def test_unwritable_cache_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"proposals cannot be cached in .*file.*set data.proposals_dir"):
        ProposalCache(Quarters(), tmp_path / "file").get(scene_image())


def test_default_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache("proposals") == tmp_path / "home/.cache/darkroom/proposals"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ProposalCache(Quarters()).folder == tmp_path / "darkroom/proposals"


def test_workers_write_identical_files(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for workers in (0, 2):
        fill(scenes(), ProposalCache(SelectiveSearch(min_side=4), tmp_path / str(workers)), workers)
    assert torch.equal(torch.get_rng_state(), state)
    files = contents(tmp_path / "0")
    assert len(files) == 8
    assert files == contents(tmp_path / "2")
    calls = Quarters.calls
    fill(scenes(), ProposalCache(Quarters(), tmp_path / "quarters"), 2)
    assert Quarters.calls == calls  # computed in other processes


def fill_as_another_process(number: int, folder: Path) -> None:
    """Fill a cache as a separate run, with another random order in OpenCV."""
    ctypes.CDLL(None).srand(number)
    fill(scenes(20), ProposalCache(SelectiveSearch(min_side=4), folder), 0)


def test_concurrent_fills_write_identical_files(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    fork = multiprocessing.get_context("fork")
    folders = [tmp_path / "shared", tmp_path / "shared", tmp_path / "alone"]
    running = [fork.Process(target=fill_as_another_process, args=work, daemon=True) for work in enumerate(folders)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert len(contents(tmp_path / "alone")) == 20
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_cache_file_names_are_stable() -> None:
    path = ProposalCache(Quarters(), "cache").path(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    assert path == Path("cache/04/3c2016b5865a6be96e0d480c7ee745e0019aca.npy")


def test_killed_fill_resumes(tmp_path: Path) -> None:
    slow, folder = ProposalCache(Quarters(pause=0.02), tmp_path / "killed"), tmp_path / "killed"
    child = multiprocessing.get_context("fork").Process(target=fill, args=(scenes(40), slow, 0), daemon=True)
    child.start()
    while len(list(folder.rglob("*.npy"))) < 5:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert 5 <= len(made) < 40
    assert all(np.load(path).shape == (4, 4) for path in made)
    half = next(iter(made)).with_name("half-written.tmp")
    half.write_bytes(b"\x93NUMPY")
    os.utime(half, (0, 0))  # an old leftover
    young = half.with_name("young.tmp")
    young.write_bytes(b"")  # possibly of a running process
    slow.method.pause = 0
    fill(scenes(40), slow, 0)
    assert all(path.stat().st_mtime_ns == before for path, before in made.items())
    assert not half.exists()
    young.unlink()
    whole = ProposalCache(Quarters(pause=0.02), tmp_path / "whole")
    whole.method.pause = 0
    fill(scenes(40), whole, 0)
    assert contents(folder) == contents(tmp_path / "whole")


class Files(Dataset):
    """Dataset of image files that counts reads."""

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        self.paths, self.max_side, self.reads = [folder / "a.png", folder / "b.png"], max_side, 0
        for path in self.paths:
            path.write_text("pixels")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        return scenes()[index]


def test_cached_images_are_not_read_again(tmp_path: Path) -> None:
    def reads(max_side: int | None = None, pause: float = 0.0) -> int:
        files.reads, files.max_side = 0, max_side
        fill(files, ProposalCache(Quarters(pause=pause), tmp_path / "cache"), 0)
        return files.reads

    files = Files(tmp_path)
    assert [reads(), reads()] == [2, 0]
    assert [reads(max_side=40), reads(pause=1e-3), reads()] == [2, 2, 0]
    files.paths[0].write_text("other pixels")
    assert [reads(), reads()] == [1, 0]


def test_methods_of_same_name_have_separate_caches(tmp_path: Path) -> None:
    assert SelectiveSearch.__name__ not in Quarters().key
    assert GridProposals().key.startswith("GridProposals ")
    other = type("Quarters", (Quarters,), {"__module__": "elsewhere", "__qualname__": "Quarters"})
    assert ProposalCache(other(), tmp_path).path(scene_image()) != ProposalCache(Quarters(), tmp_path).path(
        scene_image()
    )


def test_worker_failure_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image.png cannot be read"):
        fill(Unreadable(), ProposalCache(Quarters(), tmp_path), 2)
    with pytest.raises(DataError, match=r"was killed.*finished proposals are cached.*data.proposal_workers below 2"):
        fill(scenes(), ProposalCache(KilledWorker(), tmp_path), 2)
    deadline = time.time() + 10
    while multiprocessing.active_children() and time.time() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


# --- samples with proposals -------------------------------------------------------------------------------------------


def test_samples_contain_proposals(tmp_path: Path) -> None:
    plain = scenes(3)
    data = WithProposals(plain, ProposalCache(Quarters(), tmp_path), limit=3)
    assert len(data) == 3
    assert data.generator is plain.generator
    assert not hasattr(data, "paths")
    assert list(data[0]) == [*plain[0], "proposals"]
    samples = list(data)
    batch = data.__getitems__([0, 1, 2])
    for index, sample in enumerate(samples):
        assert sample["proposals"].dtype == torch.float32
        assert torch.equal(sample["proposals"], torch.from_numpy(Quarters()(scene_image(index))[:3]))
        assert torch.equal(sample["proposals"], batch["proposals"][index])
        assert torch.equal(sample["image"], plain[index]["image"])
    assert torch.equal(pickle.loads(pickle.dumps(data))[1]["proposals"], samples[1]["proposals"])


def test_dataset_without_batch_access_is_supported(tmp_path: Path) -> None:
    single = [{"image": scenes(2)[index]["image"]} for index in range(2)]
    data = WithProposals(single, ProposalCache(Quarters(), tmp_path))
    assert [list(sample) for sample in data.__getitems__([1, 0])] == [["image", "proposals"]] * 2


def test_cached_boxes_are_copied(tmp_path: Path) -> None:
    data = WithProposals(scenes(1), ProposalCache(GridProposals(), tmp_path))
    before = data[0]["proposals"].clone()
    data[0]["proposals"].zero_()
    assert torch.equal(data[0]["proposals"], before)


def test_datamodule_returns_proposals(tmp_path: Path) -> None:
    sizes = {"train_size": 4, "val_size": 2, "test_size": 2, "side": 64}
    data = ShapesDetection(**sizes, batch_size=2, num_workers=0, proposals=Quarters(), proposals_dir=str(tmp_path))
    data.setup("fit")
    assert len(list(tmp_path.rglob("*.npy"))) == 6
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert [tuple(boxes.shape) for boxes in batch["proposals"]] == [(4, 4), (4, 4)]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 6), (4, 1), (8, 1)])
def test_ranks_divide_processors(monkeypatch: pytest.MonkeyPatch, ranks: int, workers: int) -> None:
    asked = []
    monkeypatch.setattr(base, "processor_count", lambda: 6)
    monkeypatch.setattr(base, "fill", lambda dataset, cache, workers, **_: asked.append(workers))
    for proposal_workers in (None, 5):
        data = ShapesDetection(proposals=GridProposals(), proposal_workers=proposal_workers)
        data.trainer = SimpleNamespace(num_devices=ranks)
        data.prepare_dataset(scenes())
    assert asked == [workers, 5]


# --- recall -----------------------------------------------------------------------------------------------------------


def test_recall_matches_worked_example() -> None:
    proposals = [
        np.array([[0, 0, 10, 10], [0, 0, 10, 6], [50, 50, 60, 60]]),  # IoU with the object: .5, 5/6, 0
        np.array([[0, 0, 4, 4]]),  # with the two objects: 1 and 0
        np.zeros((0, 4)),
        np.array([[0, 0, 5, 5], [1, 1, 9, 9]]),  # nothing to find
    ]
    truths = [
        np.array([[0, 0, 10, 5]]),
        np.array([[0, 0, 4, 4], [8, 8, 9, 9]]),
        np.array([[3, 3, 8, 8]]),
        np.zeros((0, 4)),
    ]
    one, two = recall(proposals, truths, counts=(1, 2))
    assert (one.count, one.boxes) == (1, 0.75)
    assert one.recall == pytest.approx({0.5: 2 / 4, 0.7: 1 / 4})
    assert one.best_overlap == pytest.approx(1.5 / 4)
    assert (two.count, two.boxes) == (2, 1.25)
    assert two.recall == pytest.approx({0.5: 2 / 4, 0.7: 2 / 4})
    assert two.best_overlap == pytest.approx((1 + 5 / 6) / 4)
    lines = as_markdown([one, two]).split("\n")
    assert lines[0] == "| first boxes | boxes per image | recall at IoU 0.5 | recall at IoU 0.7 | mean best IoU |"
    assert lines[3] == "| 2 | 1.2 | 0.500 | 0.500 | 0.458 |"


# --- the command ------------------------------------------------------------------------------------------------------

CONFIG = """
seed_everything: 0
model: {class_path: RCNN, init_args: {whatever: 1}}
trainer: {max_epochs: 3}
data:
  class_path: ShapesDetection
  init_args: {side: 64, val_size: 4, proposals: {class_path: GridProposals, init_args: {sides: [0.2, 0.4]}}}
"""


def test_command_fills_cache_and_reports_recall(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("cv2")
    Path("a.yaml").write_text(CONFIG)
    Path("b.yaml").write_text("data: {init_args: {test_size: 6}}\n")
    assert main(["--config", "a.yaml"]) == 0
    out = capsys.readouterr().out
    assert "4 images of ShapesDetection val" in out
    assert out.count("\n|") == 8
    more = ["--data.proposals", "SelectiveSearch", "--data.proposals.min_side", "6", "--data.proposals_dir", "kept"]
    assert main(["--config=a.yaml", "--config", "b.yaml", "--split", "test", *more]) == 0
    assert "6 images of ShapesDetection test" in capsys.readouterr().out
    assert len(list(Path("kept").rglob("*.npy"))) == 6


def test_command_reports_missing_inputs(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--data", "ShapesDetection"]) == 2
    assert "data.proposals is not set; name a method, such as --data.proposals" in capsys.readouterr().err
    assert main(["--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["--split", "val"])
    assert stop.value.code == 2
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main(["--data", "ShapesDetection", "--data.proposals", "SelectiveSearch"]) == 2
    assert install_command("proposals") in capsys.readouterr().err


def test_command_can_be_interrupted(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ProposalCache, image: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.ProposalCache, "get", interrupted)
    assert main(["--data", "ShapesDetection", "--data.proposals", "GridProposals"]) == 130
    assert "the proposals made so far are cached" in capsys.readouterr().err
