"""``darkroom proposals``: fill the cache of region proposals of a split and print their recall by number of boxes."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jsonargparse import ActionConfigFile, ArgumentParser

from darkroom.cli.catalog import import_all
from darkroom.cli.console import explain
from darkroom.cli.options.data_options import keep_data_section
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.proposals.cache import ProposalCache, WithProposals, fill
from darkroom.datamodules.proposals.recall import as_markdown, recall
from darkroom.errors import DataError, UsageError

Split = Literal["train", "val", "test"]


def _parse(argv: Sequence[str]) -> tuple[DetectionDataModule, Split]:
    """Build the datamodule that a command line describes; return it with the split."""
    import_all()
    parser = ArgumentParser(prog="darkroom proposals", description="Compute region proposals and print their recall.")
    parser.add_argument("--config", action=ActionConfigFile, help="config; only its data section is used")
    parser.add_argument("--split", type=Split, default="val", help="split of the data")
    parser.add_subclass_arguments(DetectionDataModule, "data", required=True)
    config = parser.parse_args(keep_data_section(argv))
    return parser.instantiate_classes(config).data, config.split


def report(data: DetectionDataModule, split: Split) -> str:
    """Fill the cache for a split and return the recall over all objects that count, as a Markdown table."""
    if data.proposals is None:
        raise UsageError("data.proposals is not set; name a method, such as --data.proposals SelectiveSearch")
    data.prepare_data()
    dataset, cache = data.dataset(split), ProposalCache(data.proposals, data.proposals_dir)
    fill(dataset, cache, data.proposal_workers, f"proposals {split}")
    boxes, truths = [], []
    for sample in map(WithProposals(dataset, cache).__getitem__, range(len(dataset))):
        target: dict[str, Any] = sample["target"]
        keep = torch.ones(len(target["boxes"]), dtype=torch.bool)
        for flag in ("difficult", "iscrowd"):
            keep &= ~target[flag] if flag in target else True
        boxes.append(sample["proposals"].numpy())
        truths.append(target["boxes"][keep].numpy())
    objects = sum(map(len, truths))
    if not objects:
        raise DataError(f"the {split} split of {type(data).__name__} has no objects; recall needs at least one")
    head = f"{data.proposals.key}: {len(boxes)} images of {type(data).__name__} {split}, {objects} objects"
    return f"{head}\n\n{as_markdown(recall(boxes, truths))}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        print(report(*_parse(sys.argv[1:] if argv is None else argv)))
    except KeyboardInterrupt:
        print("\ninterrupted; the proposals made so far are cached", file=sys.stderr)
        return 130
    except Exception as error:
        return explain(error)
    return 0
