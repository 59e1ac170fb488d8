"""Proposals on disk: made once per image, in worker processes, delivered with every sample, judged by their recall."""

import os
import time
import traceback
import uuid
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import box_iou
from tqdm import tqdm

from darkroom.datamodules.bad_samples import UNREADABLE
from darkroom.errors import DataError, UsageError
from darkroom.paths import user_cache
from darkroom.protocols import ProposalMethod

_STALE = 24 * 60 * 60  # seconds after which a temporary file has nobody left who writes it


class ProposalCache:
    """Keeps what a method proposes: a file per image, named by a hash of the method's ``key``, of shape and pixels.

    A file appears whole or not at all, under its name, so any number of processes may fill a folder at once, and be killed
    at any time. One that was damaged all the same is made anew. All boxes are kept; the method's ``limit`` cuts what is
    handed out, so another limit costs nothing.

    Args:
        method: proposes regions.
        folder: where the files are; None: ``~/.cache/darkroom/proposals``.
    """

    def __init__(self, method: ProposalMethod, folder: str | Path | None = None) -> None:
        self.method = method
        self.folder = user_cache("proposals") if folder is None else Path(folder).expanduser()
        self._key = method.key.encode()

    def path(self, image: np.ndarray) -> Path:
        """The file of an image, uint8 (H, W, 3)."""
        digest = blake2b(self._key + repr(image.shape).encode(), digest_size=20)
        if not self.method.by_shape:
            digest.update(np.ascontiguousarray(image))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.npy"

    def get(self, image: np.ndarray) -> np.ndarray:
        """The proposals for an image, uint8 (H, W, 3), read or else made and kept: float32 (P, 4) xyxy in pixels.

        Raises:
            DataError: the folder cannot be written to.
        """
        path = self.path(image)
        boxes = _read(path)
        if boxes is None:
            boxes = self.method.propose(image)
            _write(path, boxes)
        return boxes[: self.method.limit]

    def marker(self, images: Dataset, index: int) -> Path | None:
        """An empty file that is there once an image is done: it stands for the picture's file, which need not be read.

        Args:
            images: a data set; where its pictures have files, ``paths`` are these.
            index: of the image.
        """
        try:
            path = Path(images.paths[index]).absolute()
            stat = path.stat()
        except (AttributeError, OSError):  # no files; or whoever reads it will say what is wrong
            return None
        made = type(images).__qualname__, getattr(images, "max_side", None), str(path), stat.st_mtime_ns, stat.st_size
        name = blake2b(self._key + repr(made).encode(), digest_size=20).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.done"

    def sweep(self) -> None:
        """Removes temporary files that killed processes have left behind."""
        for path in self.folder.glob("*/*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()
            except OSError:  # swept by another process, or another user's
                continue


def _read(path: Path) -> np.ndarray | None:
    """The boxes in a file; None if there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            boxes = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return boxes if boxes.dtype == np.float32 and boxes.ndim == 2 and boxes.shape[1] == 4 else None


def _write(path: Path, boxes: np.ndarray) -> None:
    temporary = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(boxes, np.float32), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the name without the content
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"proposals cannot be kept in {path.parent} ({error.strerror}); set data.proposals_dir to a folder with room"
        ) from error


def _pixels(image: Tensor) -> np.ndarray:
    """A sample's image, uint8 (3, H, W), as the methods take it: (H, W, 3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


class WithProposals(Dataset):
    """A data set of samples with ``image``, uint8 (3, H, W), to which it adds ``proposals``: float32 (P, 4) xyxy in pixels.

    Whatever else the data set offers (``paths``, ``annotations``) is found here too.

    Args:
        dataset: addressed by int.
        cache: has the proposals, or makes them.
        limit: at most so many for an image, besides the method's own limit.
    """

    def __init__(self, dataset: Dataset, cache: ProposalCache, limit: int | None = None) -> None:
        self.dataset, self.cache, self.limit = dataset, cache, limit

    def __len__(self) -> int:
        return len(self.dataset)

    def _propose(self, image: Tensor) -> Tensor:
        return torch.tensor(self.cache.get(_pixels(image))[: self.limit])

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        return {**sample, "proposals": self._propose(sample["image"])}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any] | list[dict[str, Any]]:
        """A whole batch at once, where the data set can."""
        if not hasattr(self.dataset, "__getitems__"):
            return [self[index] for index in indices]
        batch = self.dataset.__getitems__(indices)
        if isinstance(batch, dict):
            return {**batch, "proposals": [self._propose(image) for image in batch["image"]]}
        return [{**sample, "proposals": self._propose(sample["image"])} for sample in batch]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # while it is unpickled, and what a class has or has not
            raise AttributeError(name)
        return getattr(self.dataset, name)


class _Filling(Dataset):
    """Makes what is missing as it is asked for a sample, of which it returns nothing."""

    def __init__(self, images: Dataset, cache: ProposalCache, skip_bad: bool) -> None:
        self.images, self.cache, self.skip_bad = images, cache, skip_bad

    def __getitem__(self, index: int) -> int:
        marker = self.cache.marker(self.images, index)
        try:
            image = self.images[index]["image"]
        except UNREADABLE:
            if self.skip_bad:
                return index  # met again, and listed, when the sample is wanted
            raise
        self.cache.get(_pixels(image))
        if marker is not None:
            with suppress(OSError):  # a full cache need not be writable
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.touch()
        return index


def processors() -> int:
    """Processors at hand."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fill(
    images: Dataset,
    cache: ProposalCache,
    workers: int | None = None,
    description: str = "proposals",
    skip_bad: bool = False,
) -> None:
    """Makes what the cache lacks for a data set, in worker processes, with a progress bar.

    Every process goes through the set in an order of its own: those that fill at once, as the ranks of a machine do, so
    share the work without knowing of each other. Interrupted, it keeps what it has made. Pictures that are done are not
    read again, unless their files have changed.

    Args:
        images: samples with ``image``, uint8 (3, H, W); as for loaders, picklable where processes are spawned.
        cache: is filled.
        workers: processes; None: one per processor at hand; 0: this one.
        description: stands before the bar.
        skip_bad: pass over pictures that cannot be read.

    Raises:
        DataError: a picture cannot be read, the folder cannot be written to, or a process was killed.
    """
    if workers is not None and workers < 0:
        raise UsageError(f"data.proposal_workers is {workers}; it is a number of processes, 0 or more")
    if cache.method.by_shape:
        return  # a few files, which are sooner made when they are wanted than all images are read
    cache.sweep()
    markers = [cache.marker(images, index) for index in range(len(images))]
    missing = [index for index, marker in enumerate(markers) if marker is None or not marker.exists()]
    if not missing:
        return
    workers = processors() if workers is None else workers
    loader = DataLoader(
        _Filling(images, cache, skip_bad),
        batch_size=None,
        sampler=np.random.default_rng().permutation(missing).tolist(),
        num_workers=min(workers, len(missing)),
        generator=torch.Generator(),  # leaves the global one where it is
    )
    hidden = None if rank_zero_only.rank == 0 else True  # None: hidden unless there is a terminal
    try:
        for _ in tqdm(loader, description, len(missing), unit="image", disable=hidden):
            pass
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # or they would keep the processes alive as long as the error lives
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            "a process that made proposals was killed, perhaps for lack of memory; what is made is kept, so run the "
            f"command again, with data.proposal_workers below {workers}"
        ) from error


class Recall(NamedTuple):
    """How much of the truth the first boxes of every image find.

    ``count``: how many boxes at most; ``boxes``: how many an image has on average; ``recall``: by IoU threshold, the part
    of the objects that some box overlaps by as much; ``best_overlap``: mean over objects of the highest IoU with a box.
    """

    count: int
    boxes: float
    recall: dict[float, float]
    best_overlap: float


def recall(
    proposals: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    counts: Sequence[int] = (10, 50, 100, 300, 1000, 2000),
    thresholds: Sequence[float] = (0.5, 0.7),
) -> list[Recall]:
    """Recall by the number of boxes (Hosang et al. 2016), over the objects of all images together.

    Args:
        proposals: per image (P, 4) xyxy, the best first.
        truths: per image (N, 4) xyxy; N may be 0.
        counts: only the first so many boxes of an image count; a row of the table each.
        thresholds: IoU from which on an object is found.
    """
    best: list[Tensor] = []  # per image (N, counts): the highest IoU so far
    for boxes, objects in zip(proposals, truths, strict=True):
        iou = box_iou(*(torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in (objects, boxes)))
        so_far = torch.cat([iou.new_zeros(len(iou), 1), iou], 1).cummax(1).values
        best.append(so_far[:, [min(count, len(boxes)) for count in counts]])
    overlaps = torch.cat(best)
    rows = []
    for count, overlap in zip(counts, overlaps.T, strict=True):
        found = {threshold: (overlap >= threshold).float().mean().item() for threshold in thresholds}
        number = float(np.mean([min(count, len(boxes)) for boxes in proposals]))
        rows.append(Recall(count, number, found, overlap.mean().item()))
    return rows


def as_markdown(rows: Sequence[Recall]) -> str:
    """The table as Markdown."""
    thresholds = list(rows[0].recall)
    head = ["first boxes", "boxes per image", *(f"recall at IoU {t:g}" for t in thresholds), "mean best IoU"]
    lines = [head, ["---:"] * len(head)]
    for row in rows:
        found = [f"{row.recall[t]:.3f}" for t in thresholds]
        lines.append([str(row.count), f"{row.boxes:.1f}", *found, f"{row.best_overlap:.3f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
