"""Bytes of each rank under FSDP, measured on two to four processes, are those of the plan."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from darkroom.datamodules.shapes import ShapesImages
from darkroom.lightning_modules.diffusion import DDPM, DenoisingUNet
from darkroom.lightning_modules.layers.ema import EMAOptions
from darkroom.lightning_modules.utils.fsdp import shard, to_local
from darkroom.plan.counting.batch import BatchShape, make_batch
from darkroom.plan.counting.profile import ema_tensors, profile_step
from darkroom.plan.counting.step import detach_from_trainer, train_step
from darkroom.plan.memory import memory_of
from darkroom.plan.sharding import find_sharding
from tests.fakes.ranks import on_ranks


def build() -> DDPM:
    network = DenoisingUNet((3, 16, 16), base_channels=12, multipliers=(1, 2), blocks=1, attention=(8,))
    return DDPM((3, 16, 16), network=network, ema=EMAOptions(decay=0.9))


def data() -> ShapesImages:
    sizes = {"side": 16, "train_size": 4, "val_size": 4, "test_size": 4}
    return ShapesImages(batch_size=2, mean=[0.5] * 3, std=[0.5] * 3, **sizes)  # type: ignore[arg-type]


def local_bytes(tensors: Iterable[Tensor | None]) -> int:
    return sum(to_local(tensor).nbytes for tensor in tensors if tensor is not None)


@pytest.mark.slow  # processes that train
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_each_rank_has_the_bytes_of_the_plan(ranks: int, tmp_path: Path) -> None:
    def work(rank: int, folder: Path) -> dict[str, int]:
        torch.manual_seed(0)
        model = build().train()
        mesh = init_device_mesh("cpu", (ranks,))
        for part in model.shards():
            shard(part, mesh)
        optimizers = detach_from_trainer(model, 1)
        train_step(model, optimizers, make_batch(data(), BatchShape(), 1), "32-true")
        averages = ema_tensors(model)
        own = [weight for weight in model.parameters() if id(weight) not in averages]
        states = [value for one in optimizers for state in one.state.values() for value in state.values()]
        return {
            "weights": local_bytes(own),
            "gradients": local_bytes(weight.grad for weight in own),
            "optimizer": local_bytes(states),
            "ema": local_bytes(weight for weight in model.parameters() if id(weight) in averages),
        }

    measured = on_ranks(work, tmp_path, ranks)
    model = build()
    sharding = find_sharding(model)
    profile = profile_step(model, data(), BatchShape(), "32-true")
    planned = memory_of(profile, ranks, "fsdp", sharding, "32-true", on_gpu=False)
    for kind in ("weights", "gradients", "optimizer", "ema"):
        most = max(one[kind] for one in measured)
        expected = vars(planned)[kind] - (profile.buffers if kind == "weights" else 0)
        assert most == pytest.approx(expected, rel=0.02), kind
        assert most < 1.2 / ranks * vars(profile)[kind], kind
