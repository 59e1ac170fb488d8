"""W&B logging that never blocks, prompts or ends a run: offline without a login and after failures of W&B."""

import netrc
import os
import shutil
import sys
from argparse import Namespace as ArgparseNamespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from darkroom.errors import UsageError
from darkroom.runtime.lightning_compat import RestartableWandbLogger

# Defaults of W&B's settings; the environment overrides them.
_DEFAULTS = {
    "WANDB_INIT_TIMEOUT": "20",  # seconds; W&B's default of 90 is long for a cluster without internet access
    "WANDB_FINISH_TIMEOUT": "60",  # W&B's default waits forever
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
    "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "1",  # seconds that a killed run may lose; W&B's default is 15
}


class ResilientWandbLogger(RestartableWandbLogger):
    """WandbLogger that continues offline if the server does not respond at the start or W&B's process dies during the run.

    Otherwise W&B's process retries by itself, and the run does not block on it. tests/faults/test_wandb_faults.py covers
    these cases.

    Attributes:
        goal: metric that selects best.ckpt, and its mode, min or max; the summary of the W&B run has its best value.
    """

    goal: tuple[str, str] | None = None

    @property
    def experiment(self) -> Any:
        """W&B run, offline if the server does not respond."""
        from wandb.errors import CommError
        from wandb.errors import UsageError as WandbUsageError

        if self.current_run is not None:
            return self.current_run
        before = _folders(self._folder)
        try:
            return self._begin()
        except (CommError, TimeoutError) as error:
            self._go_offline(f"W&B did not start the run ({' '.join(str(error).split())})", online=False)
            for begun in set(_folders(self._folder)) - set(before):
                shutil.rmtree(begun, ignore_errors=True)  # it has no data of the run
            return self._begin()
        except WandbUsageError as error:
            raise UsageError(f"W&B: {error}") from error

    def _begin(self) -> Any:
        """Begin a W&B run whose summary has the best value of the goal."""
        run = super().experiment
        if self.goal is not None and run is not None:
            metric, mode = self.goal
            axis = "trainer/global_step"  # as WandbLogger sets it for every metric
            run.define_metric(metric, step_metric=axis, step_sync=True, summary=f"{mode},last")
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of a step."""
        with self._offline_if_dead():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | ArgparseNamespace, *args: Any, **kwargs: Any) -> None:
        """Log the config of the command line, but not Lightning's copy of the arguments of model and data."""
        if "trainer" in params:
            with self._offline_if_dead():
                super().log_hyperparams(params)

    @rank_zero_only
    def log_summary(self, values: dict[str, Any]) -> None:
        """Set summary values of the run."""
        with self._offline_if_dead():
            self.experiment.summary.update(values)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Do nothing: Lightning would upload last.ckpt, under the alias best; see ``log_checkpoint``."""

    @rank_zero_only
    def log_checkpoint(self, path: Path, epoch: int) -> None:
        """Upload a checkpoint as an artifact with the aliases ``best`` and ``epoch-N``, if ``log_model`` is set."""
        if not self.uploads_checkpoints:
            return
        import wandb

        with self._offline_if_dead():
            run = self.experiment
            artifact = wandb.Artifact(self.artifact_name or f"model-{run.id}", type="model", metadata={"epoch": epoch})
            artifact.add_file(str(path), name="best.ckpt")
            run.log_artifact(artifact, aliases=["best", f"epoch-{epoch}"])

    @contextmanager
    def _offline_if_dead(self) -> Iterator[None]:
        """Context in which the end of W&B's process loses only the data in transit."""
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        try:
            yield
        except (ConnectionError, HandleAbandonedError, MailboxClosedError) as error:
            self._go_offline(f"W&B's process ended ({str(error) or type(error).__name__})", online=True)

    def _go_offline(self, why: str, online: bool) -> None:
        """Continue the same W&B run in a new offline folder, which ``wandb sync`` joins with the others."""
        import wandb

        with suppress(Exception):  # the process may have ended
            wandb.teardown(exit_code=1)
        _clear_current_run()
        self.forget_run()
        self.init_arguments.update(mode="offline", id=self.init_arguments["id"] or _last_id(self._folder))
        _drop_empty(self._folder)
        _report(f"{why}; the run continues offline", self._folder, online)

    @property
    def _folder(self) -> Path:
        return Path(self.init_arguments["dir"] or os.environ.get("WANDB_DIR", "."))


def direct_loggers(folder: Path, trainer: Namespace, run_name: str) -> None:
    """Set the run folder as save_dir of every logger whose save_dir is ".", and W&B offline without a login.

    Args:
        folder: of the run.
        trainer: section of the config, changed in place.
        run_name: name of the run in W&B, unless the config has one.
    """
    for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
        arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
        if arguments is None:
            continue
        if str(arguments.get("save_dir")) == ".":
            arguments.save_dir = str(folder)
        if logger.class_path.endswith("WandbLogger"):
            arguments.id = arguments.id or arguments.version or _last_id(folder)
            arguments.name = arguments.name or run_name
            if not (arguments.get("fork_from") or arguments.get("resume_from")):
                # Lightning's default, which the command line drops; without it W&B starts the run from scratch.
                arguments.resume = arguments.get("resume") or "allow"
            _drop_empty(folder)
            for name, value in _DEFAULTS.items():
                os.environ.setdefault(name, value)
            if not _logged_in():
                os.environ.setdefault("WANDB_MODE", "offline")
            if locate(logger.class_path) is WandbLogger:
                logger.class_path = f"{__name__}.{ResilientWandbLogger.__name__}"


def set_goal(loggers: Iterable[Logger], monitor: str, mode: str) -> None:
    """Set the metric whose best value the summaries of W&B runs show; steps and epochs are excluded."""
    for logger in loggers:
        if isinstance(logger, ResilientWandbLogger) and monitor not in ("step", "epoch"):
            logger.goal = (monitor, mode)


def finish_wandb(exit_code: int) -> None:
    """End the W&B run, if any, as finished or failed, with a time limit for the upload."""
    wandb = sys.modules.get("wandb")  # an import would add a third of a second to every command
    if wandb is None or wandb.run is None:
        return
    folder = Path(wandb.run.dir, "../../..")  # wandb.run.dir is <folder>/wandb/<run>/files
    try:
        wandb.finish(exit_code=exit_code)
    except Exception as error:  # the run is complete; W&B must not change its exit code
        with suppress(Exception):
            wandb.teardown(exit_code=exit_code)
        _clear_current_run()
        _report(f"W&B did not upload everything ({str(error) or type(error).__name__})", folder, online=True)


def _last_id(folder: Path) -> str | None:
    """Return the id of the W&B run in this folder, to resume it: folders are named (offline-)run-<date>-<id>."""
    found = _folders(folder)
    return found[-1].name.rsplit("-", 1)[-1] if found else None


def _folders(folder: Path) -> list[Path]:
    """List the folders that W&B has written, the newest last."""
    return sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)


@rank_zero_only
def _drop_empty(folder: Path) -> None:
    """Remove folders of W&B without any record, because `wandb sync` would fail on them and skip all others."""
    for log in folder.glob("wandb/*run-*-*/*.wandb"):
        if log.stat().st_size <= 7:  # the size of its header
            shutil.rmtree(log.parent, ignore_errors=True)


def _clear_current_run() -> None:
    """Reset the run of the W&B module, so that it can begin another one."""
    vars(sys.modules["wandb"])["run"] = None  # an untyped variable of W&B's module


def _report(message: str, folder: Path, online: bool) -> None:
    """Print a message and the command that uploads the rest; `wandb sync` needs an option for online runs."""
    which = "--include-online {}/wandb/*run-*" if online else "{}/wandb/offline-run-*"
    print(f"\ndarkroom: {message}. The rest is saved on the disk; to upload it:", file=sys.stderr)
    print(f"  wandb sync {which.format(os.path.relpath(folder))}", file=sys.stderr)


def _logged_in() -> bool:
    """Return True if W&B finds a key in the environment or the netrc file, without a prompt."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
