"""Networks that judge drawn pictures: trained once on the data, the same everywhere, and kept in files."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import distributed, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.safe_load import Damaged, read_safely
from darkroom.paths import user_cache

Network = TypeVar("Network", bound=nn.Module)


def kept_or_trained(
    build: Callable[[], Network],
    fingerprint: Callable[[], str],
    train: Callable[[Network], Any],
    cache_dir: str | Path | None,
) -> tuple[Network, Any]:
    """A trained network, frozen and in eval mode, and what ``train`` said of it: from its file if there is one.

    Trained on one thread of the CPU whatever else there is, so that the result is a function of the data; only another kind
    of processor, or release of torch, may round otherwise. The caller's random numbers are left alone. Of several ranks the
    first one trains, and hands the weights to the others.

    Args:
        build: makes the network, with the same initial weights every time.
        fingerprint: names recipe and data; called, as ``train`` is, on the first rank alone.
        train: trains it, and returns its accuracy: a number, or a dict of them.
        cache_dir: folder of the file; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: the folder cannot be written.
    """
    ranks = distributed.is_available() and distributed.is_initialized()
    kept: list[Any] = [None]
    if not ranks or distributed.get_rank() == 0:
        folder = user_cache("classifiers") if cache_dir is None else Path(cache_dir).expanduser()
        kept = [_load_or_train(seeded(build), folder / f"{fingerprint()}.pt", train)]
    if ranks:
        distributed.broadcast_object_list(kept)  # not read from the file: another machine may have another disk
    network = seeded(build)
    network.load_state_dict(kept[0]["state_dict"])
    return network.eval().requires_grad_(False), kept[0]["accuracy"]


def seeded(build: Callable[[], Network]) -> Network:
    """A network with the same initial weights every time, made without touching the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed every GPU as well
        return build()


def _load_or_train(network: nn.Module, path: Path, train: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """What the file holds: ``state_dict`` and ``accuracy``."""
    with suppress(Damaged, KeyError, TypeError, RuntimeError):
        kept = read_safely("model.scores.cache_dir:", path)
        network.load_state_dict(kept["state_dict"])
        rank_zero_info(
            f"{type(network).__name__}, from {path}, is right on pictures it has not seen: {_said(kept['accuracy'])}"
        )
        return {"state_dict": kept["state_dict"], "accuracy": kept["accuracy"]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"model.scores.cache_dir: {path.parent} cannot be made ({error}); give another folder"
        ) from error
    rank_zero_info(f"Training {type(network).__name__} on the data, to judge drawn pictures with; once, some minutes")
    with _one_thread(), torch.autocast("cpu", enabled=False):
        accuracy = train(network.to(memory_format=torch.channels_last))
    rank_zero_info(f"It is right on pictures it has not seen: {_said(accuracy)}; kept in {path}")
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    torch.save({"state_dict": state, "accuracy": accuracy}, temporary)
    temporary.replace(path)  # whole or not at all
    return {"state_dict": state, "accuracy": accuracy}


def _said(accuracy: float | dict[str, float]) -> str:
    if isinstance(accuracy, dict):
        return ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items())
    return f"{accuracy:.1%}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within, torch adds numbers up in the same order everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
