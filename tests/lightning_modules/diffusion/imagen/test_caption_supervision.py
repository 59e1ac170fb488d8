"""Binding of attributes to objects: supervision of the text encoder, and the binding gap."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.cli.linking import link_model
from darkroom.datamodules.shapes.captions import ShapesCaptions
from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion import CosineSchedule, DenoisingUNet, Objective, TextToImage
from darkroom.lightning_modules.diffusion.imagen.caption_supervision import AttributeHead, CaptionSupervision
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder, Text, TextEncoder
from darkroom.lightning_modules.optimizers import Optim
from tests.contracts.module import trainer

SIZES, NAMES = list(ShapesCaptions.attribute_sizes), list(ShapesCaptions.attribute_names)


def data(**kwargs: Any) -> ShapesCaptions:
    sizes = {"train_size": 8, "val_size": 8, "test_size": 8, "batch_size": 4, "num_workers": 0, "side": 16}
    return ShapesCaptions(forms=["relation"], **{**sizes, **kwargs})


def model(**kwargs: Any) -> TextToImage:
    torch.manual_seed(0)
    text = LearnedTextEncoder(data().words, dim=8, layers=1, heads=2)
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "dropout": 0.0, "text_dim": 8}
    network = DenoisingUNet((3, 16, 16), **small, positions=True)
    options = {"network": network, "schedule": CosineSchedule(50), "sampling": Sampling(steps=2), "ema": None}
    return TextToImage(text, (3, 16, 16), **{**options, **kwargs})


def condition(there: list[list[bool]]) -> dict[str, Tensor]:
    mask = torch.tensor(there)
    return {"text": torch.randn(*mask.shape, 4) * mask[:, :, None], "text_mask": mask}


def test_supervision_is_mean_cross_entropy_of_stated_attributes() -> None:
    torch.manual_seed(0)
    head, texts = AttributeHead(4, (3, 2)), condition([[True, True, False], [True, False, False]])
    first, second = head(texts)
    assert first.shape == (2, 3)
    assert second.shape == (2, 2)
    expected = F.cross_entropy(first, torch.tensor([2, 1]), reduction="none")
    expected[0] = (expected[0] + F.cross_entropy(second[:1], torch.tensor([1]))) / 2  # the second text states one only
    torch.testing.assert_close(head.loss(texts, torch.tensor([[2, 1], [1, -1]])), expected)


def test_supervision_ignores_dropped_captions() -> None:
    head, texts = AttributeHead(4, (3, 2)), condition([[False, False], [True, True]])
    loss = head.loss(texts, torch.tensor([[2, 1], [-1, -1]]))
    assert loss.tolist() == [0.0, 0.0]
    assert loss.requires_grad  # under DDP every parameter must take part in the loss


def test_weight_of_supervision_falls_linearly_to_zero() -> None:
    supervision = CaptionSupervision(weight=2.0, steps=4)
    assert [supervision.weight_at(step) for step in (0, 1, 2, 4, 9)] == [2.0, 1.5, 1.0, 0.0, 0.0]


def test_supervision_teaches_encoder_which_object_is_which(tmp_path: Path) -> None:
    pairs, optimizer = data(batch_size=8), partial(torch.optim.Adam, lr=1e-2)
    supervised = model(supervision=CaptionSupervision(), attribute_sizes=SIZES, optim=Optim(optimizer=optimizer))
    trainer(tmp_path, max_epochs=60).fit(supervised, pairs)
    supervised.eval()  # drops no captions
    scenes = pairs.dataset("train").__getitems__(range(8))
    logits = supervised.attributes(supervised.reader(scenes["caption"], torch.device("cpu")))
    kinds = [logits[NAMES.index(name)].argmax(1) for name in ("kind", "kind_2")]
    stated = [scenes["attributes"][:, NAMES.index(name)] for name in ("kind", "kind_2")]
    assert all(torch.equal(one, other) for one, other in zip(kinds, stated, strict=True))


def test_supervision_needs_trained_encoder_and_attributes() -> None:
    class Frozen(TextEncoder):
        def forward(self, captions: Any) -> Text:
            raise AssertionError

        def tokens_of(self, caption: str) -> list[str]:
            raise AssertionError

    with pytest.raises(UsageError, match="has no attributes|needs data with attributes"):
        model(supervision=CaptionSupervision())
    network = DenoisingUNet((3, 16, 16), base_channels=8, multipliers=(1,), blocks=1, attention=(), text_dim=8)
    with pytest.raises(UsageError, match="Frozen, which does not train"):
        TextToImage(
            Frozen(dim=8, max_length=4),
            (3, 16, 16),
            network=network,
            supervision=CaptionSupervision(),
            attribute_sizes=SIZES,
        )
    with pytest.raises(UsageError, match="steps must be at least 1"):
        CaptionSupervision(steps=0)


class Oracle(nn.Module):
    """Network that predicts x0 as a constant plus the number of the first word: its error depends on the word order."""

    text_dim = 8

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads, self.weight = reads, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, text_mask: Tensor) -> Tensor:
        first = text[:, 1, 0] if self.reads else text[:, 0, 0] * 0
        return torch.zeros_like(x) + first[:, None, None, None] + self.weight


@pytest.mark.parametrize("reads", [False, True])
def test_binding_gap_is_error_with_exchanged_objects_minus_error(reads: bool, tmp_path: Path) -> None:
    pairs = data(eval_batch_size=3)  # batches of different sizes
    judged = model(network=Oracle(reads), objective=Objective(prediction="x0"))
    (logged,) = trainer(tmp_path).validate(judged, pairs)
    judged.eval()  # drops no captions
    scenes = pairs.dataset("val").__getitems__(range(8))
    images = scenes["image"].float() / 127.5 - 1

    def error(row: int, caption: str) -> float:
        with torch.no_grad():
            first = judged.reader([caption], torch.device("cpu"))["text"][0, 1, 0] if reads else torch.zeros(())
        return float((images[row] - first).square().mean())

    rows = [row for row in range(8) if scenes["exchanged"][row]]
    gaps = [error(row, scenes["exchanged"][row]) - error(row, scenes["caption"][row]) for row in rows]
    assert math.isclose(logged["val/binding_gap"], sum(gaps) / len(gaps), abs_tol=1e-5)
    assert reads or logged["val/binding_gap"] == 0


def test_head_is_sharded_with_the_other_trained_modules() -> None:
    supervised = model(supervision=CaptionSupervision(), attribute_sizes=SIZES)
    sharded = {id(weight) for module in supervised.shards() for weight in module.parameters()}
    assert {id(weight) for weight in supervised.parameters() if weight.requires_grad} <= sharded


@pytest.mark.parametrize("supervised", [True, False])
def test_sizes_of_attributes_come_from_data_only_with_supervision(supervised: bool) -> None:
    supervision = Namespace(weight=1.0) if supervised else None
    arguments = Namespace(supervision=supervision, attribute_sizes=None)
    path = f"{TextToImage.__module__}.{TextToImage.__qualname__}"
    link_model(data(), Namespace(class_path=path, init_args=arguments))
    assert arguments.attribute_sizes == (SIZES if supervised else None)
