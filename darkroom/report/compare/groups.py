"""Groups of runs that differ only in their seed, and checks that groups can be compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.errors import UsageError
from darkroom.report.run import Run
from darkroom.runtime.records.options import flatten
from darkroom.runtime.records.results import Results

# Options by which the runs of one method may differ.
_OF_A_RUN = ("seed_everything", "experiment", "runs_dir", "ckpt_path", "trainer.default_root_dir", "trainer.logger")
# Options of a datamodule that leave its test samples as they are.
_OF_TRAINING = frozenset(
    {
        *("train_size", "val_size", "batch_size", "eval_batch_size", "num_workers", "augment", "predict"),
        *("mean", "std", "max_pixels", "on_bad_sample", "bad_sample_budget", "crops", "group_by_aspect"),
        *("train_on_difficult", "proposals", "proposals_dir", "proposal_workers"),
    }
)
_TRUTH = {
    "classification": ("samples", ("truth",)),
    "segmentation": ("objects", ("sample", "class", "pixels")),
    "detection": ("truths", ("sample", "class", "x0", "y0", "x1", "y1")),
}


@dataclass(frozen=True)
class Group:
    """Runs of one config with different seeds.

    Args:
        name: that no other group has.
        runs: by seed.
    """

    name: str
    runs: Sequence[Run]

    @property
    def seeds(self) -> list[str]:
        """Seeds of the runs, as text; "?" for a run without one."""
        return [str(run.config.get("seed_everything", "?")) for run in self.runs]


def options_of(run: Run) -> dict[str, Any]:
    """Return the options of a run by full key, without those that every run has for itself."""
    return {key: value for key, value in flatten(run.config) if not key.startswith(_OF_A_RUN)}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs whose configs differ only in their seed, in the order of the first run of each group.

    Raises:
        UsageError: a run is given twice.
    """
    folders = [run.folder.resolve() for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UsageError(f"{folder} is given twice; each run must be given once")
    members: list[list[Run]] = []
    for run in runs:
        same = next((group for group in members if run.config and options_of(group[0]) == options_of(run)), None)
        if same is None:
            members.append([run])
        else:
            same.append(run)
    return [Group(name, group) for name, group in zip(_names(members), members, strict=True)]


def _names(members: Sequence[Sequence[Run]]) -> list[str]:
    """Return the shortest names that differ: method, experiment, or experiment and number."""
    firsts = [group[0] for group in members]
    choices = (
        [run.method or run.name for run in firsts],
        [run.name.rpartition("/")[0] for run in firsts],
        [run.name for run in firsts],
        [str(run.folder) for run in firsts],
    )
    return next((names for names in choices if len(set(names)) == len(names)), choices[-1])


def differing_options(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the options by which groups differ, by full key, each with the value of every group; absent ones are None."""
    options = [options_of(group.runs[0]) for group in groups]
    keys = dict.fromkeys(key for one in options for key in one)
    found = {key: [one.get(key) for one in options] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def require_comparable(groups: Sequence[Group]) -> None:
    """Check that all groups were tested by the same metric on the same samples.

    Raises:
        UsageError: names the two groups, what differs, and its values.
    """
    for run in (run for group in groups for run in group.runs if not run.config):
        raise UsageError(f"{run.folder} cannot be compared, because its config is not known: {' '.join(run.notes)}")
    first = groups[0]
    for other in groups[1:]:
        names = f"{first.name} and {other.name}"
        for what, one, two in _requirements(first.runs[0], other.runs[0]):
            if one != two:
                raise UsageError(
                    f"{names} cannot be compared in one table: their {what} must be the same, but is {one} and {two}"
                )
    tested = [(run.name, run.results) for group in groups for run in group.runs if run.results]
    for name, results in tested[1:]:
        differs = _different_samples(tested[0][1], results)
        if differs:
            raise UsageError(
                f"{tested[0][0]} and {name} cannot be compared in one table: their test samples must be the same, but "
                f"{differs}; test both on the same data"
            )


def _requirements(one: Run, two: Run) -> Iterator[tuple[str, Any, Any]]:
    """Yield what must be equal, and its value in both runs."""
    yield "main metric", one.monitor, two.monitor
    yield "datamodule (data.class_path)", one.data, two.data
    data = [{key: value for key, value in options_of(run).items() if key.startswith("data.")} for run in (one, two)]
    for key in dict.fromkeys([*data[0], *data[1]]):
        if key.split(".")[1] not in {*_OF_TRAINING, "class_path"}:
            yield key, data[0].get(key), data[1].get(key)


def _different_samples(one: Results, two: Results) -> str:
    """Describe how the samples of two tests differ; empty: they are the same."""
    if one.summary.task != two.summary.task:
        return f"one is a test of {one.summary.task}, the other of {two.summary.task}"
    samples = [results.tables.get("samples", {}).get("sample", []) for results in (one, two)]
    if samples[0] != samples[1]:
        missing = [set(samples[0]) - set(samples[1]), set(samples[1]) - set(samples[0])]
        return f"the first has {len(missing[0])} which the second lacks, and lacks {len(missing[1])} of the second"
    name, columns = _TRUTH.get(one.summary.task, ("samples", ("name",)))
    tables = [results.tables.get(name, {}) for results in (one, two)]
    same = all(tables[0].get(column) == tables[1].get(column) for column in columns)
    return "" if same else "the recorded truth differs"


def seed_notes(groups: Sequence[Group]) -> list[str]:
    """Return sentences on groups that lack seeds or test results which others have, on repeated and on single seeds."""
    tested = any(run.results for group in groups for run in group.runs)
    everywhere = sorted({seed for group in groups for seed in group.seeds}, key=lambda seed: (len(seed), seed))
    notes = []
    for group in groups:
        missing = [seed for seed in everywhere if seed not in group.seeds]
        if missing:
            notes.append(f"{group.name} has no run with seed {', '.join(missing)}.")
        repeated = sorted({seed for seed in group.seeds if group.seeds.count(seed) > 1})
        if repeated:
            notes.append(
                f"{group.name} has several runs with seed {', '.join(repeated)}; its deviation counts each run."
            )
        untested = [run.name for run in group.runs if run.results is None]
        if tested and untested:
            notes.append(f"{group.name} has no differences, because {', '.join(untested)} has no test results.")
        if len(group.runs) == 1:
            notes.append(f"{group.name} has one seed, so its deviation is not known.")
    return notes
