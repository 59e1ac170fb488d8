"""What a machine can do to a run, in the words of someone who has to mend it."""

import errno
import re
from traceback import walk_tb

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import distributed

_FULL = {errno.ENOSPC, errno.EDQUOT}
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (exited unexpectedly|is killed by signal: [^.]+)")
# gloo and NCCL have no error of their own for it.
_GONE = re.compile(r"remote worker (crashing|hanging)|remote process exited|Connection (closed|reset) by peer")
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def told(error: BaseException) -> str | None:
    """One message for a fault of the machine: disk, permission, memory, a worker that died; None for any other error."""
    if isinstance(error, OSError) and error.errno in _FULL | _CLOSED:
        return _of_the_disk(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU's memory is full: {_asked_for(error)}; {_SMALLER}, or --config configs/trainer/bf16.yaml"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"the machine's memory is full: {_asked_for(error)}; {_SMALLER}, or data.num_workers"
    if distributed.is_initialized() and _GONE.search(str(error)):
        return "another rank of this run is gone, and this one ends with it; why, that one's own message says"
    if worker := _WORKER.search(str(error)):
        how = "ended" if worker[2].startswith("exited") else worker[2].replace("is killed by signal: ", "was killed: ")
        return (
            f"a process that loads the data (pid {worker[1]}) {how}; most often the machine had no memory left for "
            "it, or /dev/shm is too small: lower data.num_workers or data.batch_size"
        )
    if "Expected more than 1 value per channel" in str(error):
        return (
            "a batch norm has one value alone of every channel, and no mean of it: the pictures are too small for this "
            "network, or data.batch_size is 1; make either larger"
        )
    return _of_restoring(error)


_SMALLER = "lower data.batch_size (trainer.accumulate_grad_batches makes up for it), the pictures' size"


def _of_the_disk(error: OSError) -> str:
    where = error.filename or "what the run writes"
    if error.errno in _FULL:
        return f"no space left on the disk for {where} ({error.strerror}); free some, or choose another --runs_dir"
    mend = "mend its permissions or, if it is the run's, choose another --runs_dir"
    return f"{where} must not be opened ({error.strerror}); {mend}"


def _of_restoring(error: BaseException) -> str | None:
    """A checkpoint that Lightning could read, but not put back: known by where in Lightning the error comes from."""
    if isinstance(error, MisconfigurationException):  # which says itself what does not fit
        return None
    for frame, _ in walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename.endswith("checkpoint_connector.py") and code.co_name.startswith(("resume_", "restore")):
            path = frame.f_locals["self"].trainer.ckpt_path
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return (
                f"ckpt_path {path} cannot be restored ({reason}): something in it is missing or was changed; take an older "
                "one"
            )
    return None


def _asked_for(error: BaseException) -> str:
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    return f"{asked[1]} more were asked for" if asked else "no more can be had"
