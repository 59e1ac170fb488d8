"""Samples for the check of an exported graph: images of the data, or random ones."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from darkroom.datamodules.base import VisionDataModule
from darkroom.protocols.export import HEIGHT, WIDTH, ExportGraph

_RANDOM_SIDE = 224  # of images where neither the data nor the graph has a size


def labelled_batches(data: VisionDataModule) -> Iterator[dict[str, Any]]:
    """Yield the validation set as batches of one image, uint8.

    Raises:
        DataError: the data are missing or damaged.
    """
    data.num_workers, data.eval_batch_size = 0, 1
    data.prepare_data()
    data.setup("validate")
    yield from data.val_dataloader()


def data_samples(graph: ExportGraph, data: VisionDataModule, count: int) -> list[tuple[Tensor, ...]]:
    """Return inputs of a graph for the first images of the validation set, each with a batch axis."""
    return [graph_inputs(graph, batch) for batch in islice(labelled_batches(data), count)]


def graph_inputs(graph: ExportGraph, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the inputs of a graph from a uint8 batch of images of one size."""
    values = [batch[spec.name] for spec in graph.inputs]
    return tuple(torch.stack(list(value)) if isinstance(value, list) else value for value in values)


def random_side(graph: ExportGraph) -> tuple[int, int]:
    """Return height and width of random images: those of the graph, or else 224."""
    sides = dict(zip((HEIGHT, WIDTH), graph.inputs[0].shape[-2:], strict=True))
    height, width = (side if isinstance(side, int) else _RANDOM_SIDE for side in sides.values())
    return height, width
