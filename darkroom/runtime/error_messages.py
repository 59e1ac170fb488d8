"""Messages for faults of the machine, with their remedies."""

import errno
import re
from traceback import walk_tb

import torch
from lightning import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import distributed

from darkroom.runtime.lightning_compat import checkpoint_being_restored

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (exited unexpectedly|is killed by signal: [^.]+)")
# gloo and NCCL raise a plain RuntimeError.
_RANK_LOST = re.compile(r"remote worker (crashing|hanging)|remote process exited|Connection (closed|reset) by peer")
_CALLBACKS = ("lightning.pytorch.callbacks.", "lightning.pytorch.tuner.")
_CALLED_BACK = ("darkroom.", "lightning.pytorch.")  # such a callback runs a part of the fit, which failed
_SMALLER = "lower data.batch_size (and raise trainer.accumulate_grad_batches), the image size"


def explain_system_error(error: BaseException) -> str | None:
    """Return a message for a fault of disk, permissions, memory, worker or rank; None for any other error."""
    if isinstance(error, OSError) and error.errno in _FULL | _DENIED:
        return _explain_disk_error(error)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"the GPU's memory is full: {_requested_memory(error)}; {_SMALLER}, or --config configs/trainer/bf16.yaml"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"the machine's memory is full: {_requested_memory(error)}; {_SMALLER}, or data.num_workers"
    if distributed.is_initialized() and _RANK_LOST.search(str(error)):
        return "another rank of this run ended, and so does this one; see the message of that rank for the reason"
    if worker := _WORKER.search(str(error)):
        how = "ended" if worker[2].startswith("exited") else worker[2].replace("is killed by signal: ", "was killed: ")
        return (
            f"a data worker process (pid {worker[1]}) {how}; most often the machine ran out of memory, or /dev/shm is too "
            "small: lower data.num_workers or data.batch_size"
        )
    if "Expected more than 1 value per channel" in str(error):
        return (
            "batch norm got a single value per channel: the images are too small for this network, or data.batch_size "
            "is 1; increase either"
        )
    return _explain_restore_error(error)


def explain_callback_error(error: BaseException) -> str | None:
    """Return a message for an exception that one of Lightning's own callbacks raised; None for any other error."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    modules = [frame.f_globals.get("__name__", "") for frame in frames]
    inside = [number for number, name in enumerate(modules) if name.startswith(_CALLBACKS)]
    if not inside or any(name.startswith(_CALLED_BACK) for name in modules[inside[-1] + 1 :]):
        return None
    owners = [frame.f_locals.get("self") for frame in frames]
    names = [type(owner).__name__ for owner in owners if isinstance(owner, Callback)]
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"trainer.callbacks: {names[-1] if names else modules[inside[-1]]} failed: {reason}"


def _explain_disk_error(error: OSError) -> str:
    where = error.filename or "the run's files"
    if error.errno in _FULL:
        return (
            f"no space left on the disk for {where} ({error.strerror}); free some space, or choose another --runs_dir"
        )
    remedy = "correct its permissions or, if it belongs to the run, choose another --runs_dir"
    return f"{where} cannot be opened ({error.strerror}); {remedy}"


def _explain_restore_error(error: BaseException) -> str | None:
    """Return a message for a failure to restore a checkpoint that was read without errors; None for any other error."""
    path = None if isinstance(error, MisconfigurationException) else checkpoint_being_restored(error)
    if path is None:
        return None
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"ckpt_path {path} cannot be restored ({reason}): content is missing or was changed; use an older one"


def _requested_memory(error: BaseException) -> str:
    requested = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    return f"tried to allocate {requested[1]}" if requested else "an allocation failed"
