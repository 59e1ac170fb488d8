"""Cache of networks that are trained once on the data to evaluate samples."""

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


def load_or_train(
    build: Callable[[], Network],
    fingerprint: Callable[[], str],
    train: Callable[[Network], Any],
    cache_dir: str | Path | None,
) -> tuple[Network, Any]:
    """Return a trained network, frozen and in eval mode, and its accuracy; from its file if there is one.

    The network is trained on one thread of the CPU, so that the result is a function of the data, up to rounding of other
    processors and releases of torch. The caller's random state does not change. With several ranks, the first one trains
    and broadcasts the weights.

    Args:
        build: builds the network.
        fingerprint: computes a hash of recipe and data; called only on the first rank, as ``train``.
        train: trains the network and returns its accuracy: a number, or a dict of numbers.
        cache_dir: folder of the file; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: the folder cannot be written.
    """
    ranks = distributed.is_available() and distributed.is_initialized()
    saved: list[Any] = [None]
    if not ranks or distributed.get_rank() == 0:
        folder = user_cache("classifiers") if cache_dir is None else Path(cache_dir).expanduser()
        saved = [_load_or_train(build_seeded(build), folder / f"{fingerprint()}.pt", train)]
    if ranks:
        distributed.broadcast_object_list(saved)  # ranks of other machines may not have the file
    network = build_seeded(build)
    network.load_state_dict(saved[0]["state_dict"])
    return network.eval().requires_grad_(False), saved[0]["accuracy"]


def build_seeded(build: Callable[[], Network]) -> Network:
    """Build a network with the same initial weights every time, without changing the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed every GPU as well
        return build()


def _load_or_train(network: Network, path: Path, train: Callable[[Network], Any]) -> dict[str, Any]:
    """Return the content of the file, ``state_dict`` and ``accuracy``; train and write it if it is missing."""
    with suppress(Damaged, KeyError, TypeError, RuntimeError):
        saved = read_safely("model.scores.cache_dir:", path)
        network.load_state_dict(saved["state_dict"])
        accuracy = _format_accuracy(saved["accuracy"])
        rank_zero_info(f"Loaded {type(network).__name__} from {path}; accuracy on held-out images: {accuracy}")
        return {"state_dict": saved["state_dict"], "accuracy": saved["accuracy"]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"model.scores.cache_dir: {path.parent} cannot be created ({error}); give another folder"
        ) from error
    rank_zero_info(f"Training {type(network).__name__} on the data to score samples; once, some minutes")
    with _single_thread(), torch.autocast("cpu", enabled=False):
        network.to(memory_format=torch.channels_last)
        accuracy = train(network)
    rank_zero_info(f"Accuracy on held-out images: {_format_accuracy(accuracy)}; saved to {path}")
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    torch.save({"state_dict": state, "accuracy": accuracy}, temporary)
    temporary.replace(path)  # atomic
    return {"state_dict": state, "accuracy": accuracy}


def _format_accuracy(accuracy: float | dict[str, float]) -> str:
    if isinstance(accuracy, dict):
        return ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items())
    return f"{accuracy:.1%}"


@contextmanager
def _single_thread() -> Iterator[None]:
    """Run torch on one thread within the context, so that sums have the same order everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
