"""Cache of region proposals on disk: computed once per image in worker processes, added to every sample."""

import os
import time
import traceback
import uuid
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from darkroom.datamodules.bad_samples import UNREADABLE
from darkroom.datamodules.datasets import DatasetWrapper, processor_count, unwrap
from darkroom.errors import DataError, UsageError
from darkroom.paths import user_cache
from darkroom.protocols import BatchedDataset, DownscaledDataset, FileDataset, ProposalMethod, SizedDataset

_STALE = 24 * 60 * 60  # seconds after which a temporary file is abandoned


class ProposalCache:
    """Cache of the proposals of a method: a file per image, named by a hash of the method's ``key``, shape and pixels.

    Files are written atomically, so several processes may fill a folder at once and be killed at any time. A damaged file
    is computed again. All boxes are cached; the method's ``limit`` is applied on reading, so a new limit needs no new
    computation.

    Args:
        method: proposes regions.
        folder: folder of the files; None: ``~/.cache/darkroom/proposals``.
    """

    def __init__(self, method: ProposalMethod, folder: str | Path | None = None) -> None:
        self.method = method
        self.folder = user_cache("proposals") if folder is None else Path(folder).expanduser()
        self._key = method.key.encode()

    def path(self, image: np.ndarray) -> Path:
        """Return the file of an image, uint8 (H, W, 3)."""
        digest = blake2b(self._key + repr(image.shape).encode(), digest_size=20)
        if not self.method.by_shape:
            digest.update(np.ascontiguousarray(image).data)
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.npy"

    def get(self, image: np.ndarray) -> np.ndarray:
        """Read the proposals for an image, uint8 (H, W, 3), or compute and cache them: float32 (P, 4) xyxy in pixels.

        Raises:
            DataError: the folder cannot be written to.
        """
        path = self.path(image)
        boxes = _read(path)
        if boxes is None:
            boxes = self.method.propose(image)
            _write(path, boxes)
        return boxes[: self.method.limit]

    def marker(self, images: SizedDataset, index: int) -> Path | None:
        """Return the empty marker file that exists once an image is done, so the image is not read again; None: no marker.

        Args:
            images: a data set; only one with ``paths`` has markers.
            index: index of the image.
        """
        inner = unwrap(images)
        if not isinstance(inner, FileDataset):
            return None
        try:
            path = Path(inner.paths[index]).absolute()
            stat = path.stat()
        except OSError:  # reading the image raises an error with its name
            return None
        max_side = inner.max_side if isinstance(inner, DownscaledDataset) else None
        made = type(images).__qualname__, max_side, str(path), stat.st_mtime_ns, stat.st_size
        name = blake2b(self._key + repr(made).encode(), digest_size=20).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.done"

    def sweep(self) -> None:
        """Remove temporary files of killed processes."""
        for path in self.folder.glob("*/*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()
            except OSError:  # removed by another process, or owned by another user
                continue


def _read(path: Path) -> np.ndarray | None:
    """Read the boxes in a file; None if it is missing or damaged."""
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
                os.fsync(file.fileno())  # a power failure could otherwise leave an empty file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"proposals cannot be cached in {path.parent} ({error.strerror}); set data.proposals_dir to a writable folder"
        ) from error


def _pixels(image: Tensor) -> np.ndarray:
    """Convert a sample's image, uint8 (3, H, W), to (H, W, 3), the layout of the methods."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


class WithProposals(DatasetWrapper):
    """Data set that adds ``proposals``, float32 (P, 4) xyxy in pixels, to samples with ``image``, uint8 (3, H, W).

    Args:
        dataset: addressed by int.
        cache: reads or computes the proposals.
        limit: maximum number of boxes of an image, besides the method's own limit.
    """

    def __init__(self, dataset: SizedDataset, cache: ProposalCache, limit: int | None = None) -> None:
        super().__init__(dataset=dataset)
        self.cache, self.limit = cache, limit

    def _propose(self, image: Tensor) -> Tensor:
        return torch.tensor(self.cache.get(_pixels(image))[: self.limit])

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        return {**sample, "proposals": self._propose(sample["image"])}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any] | list[dict[str, Any]]:
        """Read a whole batch at once if the data set supports it."""
        if not isinstance(self.dataset, BatchedDataset):
            return [self[index] for index in indices]
        batch = self.dataset.__getitems__(indices)
        if isinstance(batch, dict):
            return {**batch, "proposals": [self._propose(image) for image in batch["image"]]}
        return [{**sample, "proposals": self._propose(sample["image"])} for sample in batch]


class _FillingDataset(Dataset[int]):
    """Data set that computes missing proposals when a sample is read; returns only its index."""

    def __init__(self, images: SizedDataset, cache: ProposalCache, skip_bad: bool) -> None:
        self.images, self.cache, self.skip_bad = images, cache, skip_bad

    def __getitem__(self, index: int) -> int:
        marker = self.cache.marker(self.images, index)
        try:
            image = self.images[index]["image"]
        except UNREADABLE:
            if self.skip_bad:
                return index  # recorded when the sample itself is read
            raise
        self.cache.get(_pixels(image))
        if marker is not None:
            with suppress(OSError):  # a complete cache may be read-only
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.touch()
        return index


def fill(
    images: SizedDataset,
    cache: ProposalCache,
    workers: int | None = None,
    description: str = "proposals",
    skip_bad: bool = False,
) -> None:
    """Compute the proposals that a data set lacks in the cache, in worker processes, with a progress bar.

    Every call visits the set in its own random order, so concurrent calls, such as the ranks of a machine, share the work
    without communication. The results of an interrupted call are kept. Images that are done are not read again unless
    their files have changed.

    Args:
        images: samples with ``image``, uint8 (3, H, W); picklable if processes are spawned.
        cache: cache to fill.
        workers: processes; None: one per available processor; 0: this process.
        description: label of the progress bar.
        skip_bad: skip images that cannot be read.

    Raises:
        DataError: an image cannot be read, the folder cannot be written to, or a process was killed.
    """
    if workers is not None and workers < 0:
        raise UsageError(f"data.proposal_workers must be at least 0, got {workers}")
    if cache.method.by_shape:
        return  # few files: faster to compute on demand than to read all images
    cache.sweep()
    markers = [cache.marker(images, index) for index in range(len(images))]
    missing = [index for index, marker in enumerate(markers) if marker is None or not marker.exists()]
    if not missing:
        return
    workers = processor_count() if workers is None else workers
    loader = DataLoader(
        _FillingDataset(images, cache, skip_bad),
        batch_size=None,
        sampler=np.random.default_rng().permutation(missing).tolist(),
        num_workers=min(workers, len(missing)),
        generator=torch.Generator(),  # the global one does not advance
    )
    hidden = None if rank_zero_only.rank == 0 else True  # type: ignore[attr-defined]  # set by Lightning; None: by terminal
    try:
        for _ in tqdm(loader, description, len(missing), unit="image", disable=hidden):
            pass
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # the frames would keep the processes alive as long as the error
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            "a process that computes proposals was killed, perhaps for lack of memory; finished proposals are cached: run "
            f"the command again with data.proposal_workers below {workers}"
        ) from error
