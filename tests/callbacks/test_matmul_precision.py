"""MatmulPrecision: set during a command, restored after it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from darkroom.callbacks.training.matmul_precision import MatmulPrecision
from darkroom.errors import UsageError
from tests.contracts.module import trainer


class Recording(BoringModel):
    seen: tuple[str, ...] = ()

    def on_train_start(self) -> None:
        self.seen += (torch.get_float32_matmul_precision(),)


def test_precision_is_set_in_the_fit_and_restored(tmp_path: Path) -> None:
    model, before = Recording(), torch.get_float32_matmul_precision()
    assert before == "highest"
    fitting: Any = trainer(tmp_path, max_steps=1, callbacks=[MatmulPrecision("high")])
    fitting.fit(model)
    assert model.seen == ("high",)
    assert torch.get_float32_matmul_precision() == before


def test_unknown_precision_raises() -> None:
    with pytest.raises(UsageError, match="must be one of highest, high, medium, got low"):
        MatmulPrecision("low")  # type: ignore[arg-type]
