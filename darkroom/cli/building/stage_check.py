"""Check of the stages of a chain before the first one trains."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from darkroom.cli.cli import DarkroomCLI
from darkroom.cli.run import execute
from darkroom.errors import UsageError, UserError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.layers.ema import EMA
from darkroom.lightning_modules.utils.initial_weights import require_initial_weights_fit
from darkroom.lightning_modules.utils.normalization import find_normalization, require_normalization
from darkroom.renames import update_config

# Options that may differ when a stage resumes: they have no effect on the weights.
_FREE = (
    *("config", "ckpt_path", "experiment", "runs_dir", "trainer.logger", "trainer.enable_progress_bar"),
    *("trainer.enable_model_summary", "data.num_workers"),
)


class StageCheck(DarkroomCLI):
    """Command line of a fit that builds data and model of its config, and trains nothing.

    Attributes:
        network: the model, without the weights of ``model.init_from``.
    """

    network: Technique

    def _find_run(self, command: str, config: Namespace, experiment: Path) -> None:
        """Do nothing: a check has no run folder."""

    def instantiate_classes(self) -> None:
        """Build everything but loggers and Trainer, without the weights of the stage before, which may not exist yet."""
        building = self.link_config()
        config = building["fit"]
        config.trainer.logger = None
        if "init_from" in config.model.init_args:
            config.model.init_args.init_from = None
        self.build_model(building)
        assert isinstance(self.model, Technique)
        self.network = self.model

    def run_command(self, command: str) -> None:
        """Do nothing: a check ends here."""


def check_stages(stages: Sequence[tuple[str, list[str], Path]]) -> list[int]:
    """Build every stage, and check that its weights fit the next one and its config equals that of its run.

    Args:
        stages: title, command line of the fit and run folder of each stage.

    Returns:
        Number of weights of each stage, frozen ones too, without averages.

    Raises:
        UserError: a stage is invalid.
        SystemExit: the parser has printed an error or the help.
    """
    counts, before, state, normalization = list[int](), "", dict[str, Tensor](), None
    for title, argv, run in stages:
        with _said_where(title):
            check = execute(argv, StageCheck)
            if before:
                require_initial_weights_fit(check.network, state, before)
                require_normalization(check.network, check.datamodule, normalization, f"the weights of {before}")
            _require_same_config(run, check.dump_config())
        before, state = type(check.network).__name__, check.network.state_dict()
        normalization = find_normalization(check.network, check.datamodule)
        counts.append(_count_weights(check.network))
    return counts


def _count_weights(module: nn.Module) -> int:
    """Count the weights of a module, frozen ones too, without those of its averages."""
    averages = {id(weight) for part in module.modules() if isinstance(part, EMA) for weight in part.parameters()}
    return sum(weight.numel() for weight in module.parameters() if id(weight) not in averages)


@contextmanager
def _said_where(title: str) -> Iterator[None]:
    """Context whose errors are followed by a line with the stage that they belong to."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            raise type(error)(f"{title}: {error}") from error
        _print_stage(title)
        raise
    except SystemExit as ended:
        if ended.code == 2:
            _print_stage(title)
        raise


@rank_zero_only
def _print_stage(title: str) -> None:
    print(f"darkroom: {title} is invalid; no stage was trained", file=sys.stderr)


def _require_same_config(run: Path, text: str) -> None:
    """Raise a UsageError if the config of a run differs from that of its stage."""
    saved = run / "config.yaml"
    if not saved.is_file():
        return
    there, here = (update_config(yaml.safe_load(one)) for one in (saved.read_text(encoding="utf-8"), text))
    found = list(_differences(here, there))
    if found:
        key, new, old = found[0]
        others = f" and {len(found) - 1} more options differ" if len(found) > 1 else ""
        raise UsageError(
            f"{key} is {new!r}, but {run} was started with {old!r}{others}; make them agree, choose another --experiment, "
            "or remove the folder to train this stage and those after it again"
        )


def _differences(here: Any, there: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key and both values of every option that differs; options of one side alone are of another version."""
    if not isinstance(here, Mapping) or not isinstance(there, Mapping):
        if here != there:
            yield key, here, there
        return
    classes = here.get("class_path"), there.get("class_path")
    if classes[0] != classes[1]:
        yield key, *classes
        return
    for name in sorted(here.keys() & there.keys()):
        inner = key if name == "init_args" else f"{key}.{name}".lstrip(".")
        if inner not in _FREE:
            yield from _differences(here[name], there[name], inner)
