"""W&B: when it stays offline, what it is told, and why a run never waits for it nor ends with it."""

import netrc
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from darkroom.errors import UsageError

# W&B's own settings; what the environment says counts more.
_PATIENCE = {
    "WANDB_INIT_TIMEOUT": "20",  # seconds; W&B's own 90 are long for a cluster without a way out
    "WANDB_FINISH_TIMEOUT": "60",  # W&B itself would wait for ever
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
    "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "1",  # what a killed run loses; W&B's own 15 may be all of it
}


class SteadyWandbLogger(WandbLogger):
    """W&B's logger, of a run that outlives W&B: it goes on offline where the server does not answer at the start, and where
    W&B's own process dies in the middle. In between W&B's process tries again by itself, and nothing waits for it."""

    @property
    def experiment(self) -> Any:
        from wandb.errors import CommError
        from wandb.errors import UsageError as Refused

        if self._experiment is not None:
            return self._experiment
        before = _folders(self._folder)
        try:
            return super().experiment
        except (CommError, TimeoutError) as error:
            self._go_offline(f"W&B did not begin the run ({' '.join(str(error).split())})", online=False)
            for begun in set(_folders(self._folder)) - set(before):
                shutil.rmtree(begun, ignore_errors=True)  # with nothing of the run in it
            return super().experiment
        except Refused as error:
            raise UsageError(f"W&B: {error}") from error

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        with self._outlived():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        with self._outlived():
            super().log_hyperparams(params)

    @rank_zero_only
    def log_summary(self, values: dict[str, Any]) -> None:
        """Sets values of the run as a whole."""
        with self._outlived():
            self.experiment.summary.update(values)

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        """Within, the death of W&B's process costs what was on its way there, and the fit nothing."""
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        try:
            yield
        except (ConnectionError, HandleAbandonedError, MailboxClosedError) as error:
            self._go_offline(f"W&B's process is gone ({str(error) or type(error).__name__})", online=True)

    def _go_offline(self, why: str, online: bool) -> None:
        """Has what comes next go into a folder of its own, of the same W&B run, which ``wandb sync`` joins to the rest."""
        import wandb

        with suppress(Exception):  # of a process that may be dead
            wandb.teardown(exit_code=1)
        wandb.run = self._experiment = None
        self._wandb_init.update(mode="offline", id=self._wandb_init["id"] or _last_id(self._folder))
        _drop_empty(self._folder)
        _say(f"{why}; the run goes on offline", self._folder, online)

    @property
    def _folder(self) -> Path:
        return Path(self._wandb_init["dir"] or os.environ.get("WANDB_DIR", "."))


def loggers_in(folder: Path, trainer: Namespace) -> None:
    """Points every logger of the config whose save_dir is "." at the run's folder, and W&B offline without a login."""
    for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
        arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
        if arguments is None:
            continue
        if str(arguments.get("save_dir")) == ".":
            arguments.save_dir = str(folder)
        if logger.class_path.endswith("WandbLogger"):
            arguments.id = arguments.id or arguments.version or _last_id(folder)
            arguments.name = arguments.name or "/".join(folder.parts[-2:])
            if not (arguments.get("fork_from") or arguments.get("resume_from")):
                # Lightning's own default, lost on its way through the command line: without it W&B begins the run anew.
                arguments.resume = arguments.get("resume") or "allow"
            _drop_empty(folder)
            for name, value in _PATIENCE.items():
                os.environ.setdefault(name, value)
            if not _logged_in():
                os.environ.setdefault("WANDB_MODE", "offline")
            if locate(logger.class_path) is WandbLogger:
                logger.class_path = f"{__name__}.{SteadyWandbLogger.__name__}"


def finish_wandb(exit_code: int) -> None:
    """Ends the W&B run, if there is one, as finished or as failed; waits a bounded time for what is not uploaded yet."""
    wandb = sys.modules.get("wandb")  # not imported here, because that takes a third of a second of every command
    if wandb is None or wandb.run is None:
        return
    folder = Path(wandb.run.dir, "../../..")  # of <folder>/wandb/<run>/files
    try:
        wandb.finish(exit_code=exit_code)
    except Exception as error:  # what the run was for is done, and its exit code is not W&B's
        with suppress(Exception):
            wandb.teardown(exit_code=exit_code)
        wandb.run = None
        _say(f"W&B did not take everything ({str(error) or type(error).__name__})", folder, online=True)


def _last_id(folder: Path) -> str | None:
    """The id of the W&B run that this folder holds, to continue it: folders are named (offline-)run-<date>-<id>."""
    found = _folders(folder)
    return found[-1].name.rsplit("-", 1)[-1] if found else None


def _folders(folder: Path) -> list[Path]:
    """Those that W&B has written into, the newest last."""
    return sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)


@rank_zero_only
def _drop_empty(folder: Path) -> None:
    """Removes what W&B had no time to write anything into: `wandb sync` would refuse it, and all beside it."""
    for log in folder.glob("wandb/*run-*-*/*.wandb"):
        if log.stat().st_size <= 7:  # its header
            shutil.rmtree(log.parent, ignore_errors=True)


def _say(what: str, folder: Path, online: bool) -> None:
    """Says what happened and how all gets to W&B that has not: what was begun online `wandb sync` takes only if told so."""
    which = "--include-online {}/wandb/*run-*" if online else "{}/wandb/offline-run-*"
    print(f"\ndarkroom: {what}. What W&B has not got lies on the disk; to upload it:", file=sys.stderr)
    print(f"  wandb sync {which.format(os.path.relpath(folder))}", file=sys.stderr)


def _logged_in() -> bool:
    """Whether W&B would find a key without asking: in the environment or the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
