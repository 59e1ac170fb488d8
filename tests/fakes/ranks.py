"""Functions on processes that form a process group, as under DDP."""

import gc
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


def _work(work: Callable[[int, Path], Any], rank: int, ranks: int, folder: Path) -> None:
    gc.freeze()  # garbage of the parent is not collected here: threads that it may wait for are not in a fork
    torch.set_num_threads(1)  # a forked process has lost the threads of its parent
    store = torch.distributed.FileStore(str(folder / "store"), ranks)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks, store=store)
    torch.save(work(rank, folder), folder / f"{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_two_ranks(work: Callable[[int, Path], Any], folder: Path) -> list[Any]:
    """Return the results of ``work(rank, folder)`` in two forked processes joined by gloo."""
    return on_ranks(work, folder, 2)


def on_ranks(work: Callable[[int, Path], Any], folder: Path, count: int) -> list[Any]:
    """Return the results of ``work(rank, folder)`` in ``count`` forked processes joined by gloo."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("forked processes")
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_work, args=(work, rank, count, folder), daemon=True) for rank in range(count)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0] * count
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]
