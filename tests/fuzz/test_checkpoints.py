"""Damaged, changed or foreign checkpoints: one message without traceback, or a valid run."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from darkroom.errors import UserError
from darkroom.lightning_modules.utils.safe_load import read_safely
from tests.fuzz.strategies import corrupted, examples
from tests.fuzz.trees import change

VALUES = (
    *(None, "x", -1, 0, 10**9, 1.5, float("nan"), True, [], {}, [1], {"a": 1}, (1, 2)),
    *(torch.zeros(3), torch.full((2, 2), torch.nan)),
)
COMMANDS = {"fit": ["--trainer.max_epochs", 2], "test": []}


def _packed(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture
def saved_checkpoint(tiny_run: Path) -> Path:
    """Checkpoint of a small fit, in the folder of its run."""
    return tiny_run / "checkpoints/last.ckpt"


@examples(200)
@given(seed=st.integers(0, 2**32))
def test_corrupted_file_raises_or_loads_same_weights(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    content = {"weight": torch.arange(300.0), "names": ["a", "b"], "step": 3}
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(corrupted(_packed(content), False, Random(seed)))
    try:
        read = read_safely("model.pretrained", path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert torch.equal(read.pop("weight"), content["weight"])
        assert read == {"names": ["a", "b"], "step": 3}


@examples(6)
@given(seed=st.integers(0, 2**32))
def test_changed_checkpoint_raises_or_runs(
    darkroom: Callable, tiny: list[str], saved_checkpoint: Path, seed: int
) -> None:
    random = Random(seed)
    content = torch.load(saved_checkpoint, weights_only=True)
    change(content, random, VALUES)
    Path("changed.ckpt").write_bytes(_packed(content))
    command = random.choice(list(COMMANDS))
    outcome = darkroom(command, *tiny, *COMMANDS[command], "--ckpt_path", "changed.ckpt")
    assert outcome.code in (0, 1, 2)
    if outcome.code:
        assert "changed.ckpt" in outcome.message or "not finite" in outcome.message
        assert len(outcome.message.splitlines()) == 1


def _archive(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def _flipped(saved_checkpoint: bytes) -> bytes:
    """Flip one bit of a weight."""
    with zipfile.ZipFile(io.BytesIO(saved_checkpoint)) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
        at = saved_checkpoint.index(archive.read(largest)) + largest.file_size // 2
    return saved_checkpoint[:at] + bytes([saved_checkpoint[at] ^ 1]) + saved_checkpoint[at + 1 :]


def _with(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda saved_checkpoint: _packed({**torch.load(io.BytesIO(saved_checkpoint), weights_only=True), **changes})


DAMAGE = {
    "one bit of a weight": (_flipped, "the checksum of "),
    "another archive": (lambda _: _archive(photo=b"no weights"), "cannot be loaded"),
    "nothing": (lambda _: b"", "cannot be loaded"),
    "a list": (lambda _: _packed([1, 2]), "must be a checkpoint of a run"),
    "no progress": (_with(loops={}), "cannot be restored"),
    "arguments that are none": (_with(hyper_parameters=3), "changed.ckpt"),
    "a class that is none": (_with(hyper_parameters={"_class_path": 3}), "changed.ckpt"),
    "losses without names": (_with(running_loss={"terms": [], "sums": [1.0], "count": 1}), "cannot be restored"),
    "a weight that is a number": (
        lambda saved_checkpoint: _with(
            state_dict={**torch.load(io.BytesIO(saved_checkpoint))["state_dict"], "network.outc.conv.bias": 3}
        )(saved_checkpoint),
        "network.outc.conv.bias is int in the file",
    ),
}


def test_damage_is_reported_in_one_message(darkroom: Callable, tiny: list[str], saved_checkpoint: Path) -> None:
    for name, (damage, message) in DAMAGE.items():
        Path("changed.ckpt").write_bytes(damage(saved_checkpoint.read_bytes()))
        outcome = darkroom("fit", *tiny, *COMMANDS["fit"], "--ckpt_path", "changed.ckpt")
        assert outcome.code in (1, 2), name
        assert message in outcome.message, name
