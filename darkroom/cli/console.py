"""Console output: errors as one message, and filtered warnings."""

import logging
import os
import re
import signal
import sys
import threading
import warnings

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from darkroom.errors import UserError
from darkroom.runtime.error_messages import explain_callback_error, explain_system_error


def is_debugging() -> bool:
    """Return True if DARKROOM_DEBUG is set, which shows tracebacks."""
    return os.environ.get("DARKROOM_DEBUG", "0") not in ("", "0")


def explain(error: Exception) -> int:
    """Print an error of known cause as one message and return the exit code.

    Raises:
        Exception: the error itself, if its cause is unknown or DARKROOM_DEBUG is set.
    """
    if is_debugging():
        raise error
    newest = UserError.newest
    mistake = newest if newest is not None and str(newest) in str(error) else error
    if isinstance(mistake, UserError | MisconfigurationException):
        # The message of a data worker follows the traceback of that process.
        message = str(mistake).rsplit(f"{type(mistake).__name__}: ", 1)[-1].strip()
        return _print_error(message, mistake.exit_code if isinstance(mistake, UserError) else 2)
    if (fault := explain_system_error(error)) is not None:
        _ignore_ended_workers()
        return _print_error(fault, 1)
    if (failure := explain_callback_error(error)) is not None:
        return _print_error(failure, 2)
    raise error


def _ignore_ended_workers() -> None:
    """Restore the default action for ended child processes.

    The handler of torch's DataLoader would raise for every further killed worker, while this process waits for them to end.
    """
    if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _print_error(message: str, exit_code: int) -> int:
    print(f"\ndarkroom: error: {message}", file=sys.stderr)  # a line break ends the line of a progress bar
    return exit_code


# Patterns of warnings that a user can do nothing about, each with the reason. All other warnings are shown.
HIDDEN_WARNINGS = {
    ".*LeafSpec.*": "torch deprecates a class that Lightning uses",
    ".*does not have many workers.*": "data.num_workers follows the number of processors",
    ".*is an instance of `nn.Module` and is already saved.*": "networks in hyper-parameters are class paths in the file",
    ".*ModelCheckpoint with manual optimization.*": "modules with two optimizers count their steps themselves",
    ".*module.s. in eval mode at the start of training.*": "EMA weights are always in eval mode",
    ".*is smaller than the logging interval.*": "losses are logged at the end of every epoch too",
    ".*The dirpath has changed from.*": "a command in another folder, or a fit from a copy, has checkpoints of its own",
    ".*overridden `on_before_batch_transfer`.*": "detectors check boxes before they are copied to a GPU",
    ".*anonymous.* is deprecated.*": "Lightning passes this argument to W&B, whatever the config",
}
_HIDDEN_OUTSIDE_SLURM = {".*`srun` command is available.*": "Slurm is installed, but not used"}

# The same for messages of Lightning's loggers.
HIDDEN_MESSAGES = {
    "Tip:": "an advertisement",
    "TPU": "counts devices that the machine lacks",
    "was raised with message:": "the error is printed at the end",
    "to estimate number of stepping batches": "an internal step",
    "already configured with model summary": "ShortModelSummary replaces Lightning's",
}
_LOGGERS = (
    *("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.setup"),
    "lightning.fabric.utilities.rank_zero",
)


def filter_warnings() -> None:
    """Hide ``HIDDEN_WARNINGS`` and ``HIDDEN_MESSAGES``."""
    hidden = HIDDEN_WARNINGS if "SLURM_JOB_ID" in os.environ else HIDDEN_WARNINGS | _HIDDEN_OUTSIDE_SLURM
    for message in hidden:
        warnings.filterwarnings("ignore", message=message)
    noise = re.compile("|".join(HIDDEN_MESSAGES))
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(lambda record: not noise.search(str(record.msg)))
