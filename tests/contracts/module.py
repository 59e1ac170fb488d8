"""Contract of every segmentation method. Inherit, and define ``build``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.segmentation import SemanticSegmentation
from tests.contracts.compilation import CompilationContract
from tests.contracts.export import ExportContract
from tests.contracts.synchronization import SynchronizationContract


def trainer(folder: Path, **kwargs: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{"accelerator": "cpu", "max_epochs": 1, "default_root_dir": folder, **quiet, **kwargs})


class SegmentationContract(ExportContract, SynchronizationContract, CompilationContract):
    """Inherit as ``class TestMyMethod(SegmentationContract)``."""

    steps = 150  # on one batch ...
    overfit_loss = 0.1  # ... until the loss on it is below this
    refuses: str | None = None  # message for images of extreme aspect ratios, if they are refused

    def build(self, **kwargs: Any) -> Technique:
        """Build the method, tiny, for the six classes of Shapes."""
        raise NotImplementedError

    def data(self, **kwargs: Any) -> ShapesSegmentation:
        sizes = {"train_size": 4, "val_size": 4, "test_size": 4, "batch_size": 4, "num_workers": 0, "side": 32}
        return ShapesSegmentation(**{**sizes, **kwargs})

    @pytest.mark.slow  # 4 to 9 seconds for most methods
    def test_overfits_one_batch(self, tmp_path: Path) -> None:
        model = self.build(optim=Optim(lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True)))
        fitting = trainer(tmp_path, max_steps=self.steps, max_epochs=-1, limit_val_batches=0, log_every_n_steps=1)
        fitting.fit(model, self.data())
        assert fitting.callback_metrics["train/loss"] < self.overfit_loss

    def test_metrics_are_named_by_stage(self, tmp_path: Path) -> None:
        model, data, fitting = self.build(), self.data(), trainer(tmp_path, log_every_n_steps=1)
        fitting.fit(model, data)
        names = set(fitting.callback_metrics)
        fitting.test(model, data, verbose=False)
        names |= set(fitting.callback_metrics)
        scores = {
            "loss",
            "mIoU",
            "Dice",
            "pixel_accuracy",
            "mean_accuracy",
            "frequency_weighted_IoU",
            *(f"IoU/{name}" for name in data.class_names),
        }
        assert names >= {"train/loss"} | {f"{stage}/{score}" for stage in ("val", "test") for score in scores}
        assert all(name.split("/")[0] in ("train", "val", "test") for name in names)

    def test_checkpoint_restores_predictions(self, tmp_path: Path) -> None:
        model, data = self.build(), self.data()
        saving = ModelCheckpoint(tmp_path, "it")
        trainer(tmp_path, enable_checkpointing=True, callbacks=[saving]).fit(model, data)
        saved = torch.load(tmp_path / "it.ckpt", weights_only=True)
        again = self.build()
        again.load_state_dict(saved["state_dict"])
        image = torch.randn(2, 3, 32, 32)
        assert torch.equal(model.eval()(image), again.eval()(image))

    def test_predictions_are_classes_at_input_size(self) -> None:
        model = self.build().eval()
        for size in ((32, 32), (45, 37)):
            mask = model.predict_step({"image": torch.randn(2, 3, *size)}, 0)
            assert mask.shape == (2, *size)
            assert mask.dtype == torch.int64
            assert 0 <= mask.min() <= mask.max() < model.num_classes

    @pytest.mark.parametrize("size", [(1, 900), (900, 1), (2000, 2)], ids=["wide", "high", "thin"])
    def test_extreme_aspect_ratios_work_or_are_refused(self, size: tuple[int, int]) -> None:
        model = self.build()
        vars(model)["log_loss"] = lambda terms: torch.stack(list(terms.values())).sum()  # without a Trainer
        batch = {"image": torch.randn(2, 3, *size), "mask": torch.zeros(2, *size, dtype=torch.long)}
        with pytest.raises(UsageError, match=self.refuses) if self.refuses else nullcontext():
            loss = model.training_step(batch, 0)
            assert isinstance(loss, torch.Tensor)
            assert loss.isfinite()
        with pytest.raises(UsageError, match=self.refuses) if self.refuses else nullcontext():
            assert model.eval().predict_step(batch, 0).shape == (2, *size)

    def test_bf16_mixed_training_is_finite(self, tmp_path: Path) -> None:
        model, data = self.build(), self.data()
        fitting = trainer(tmp_path, precision="bf16-mixed", log_every_n_steps=1)
        fitting.fit(model, data)
        values = dict(fitting.callback_metrics)
        fitting.test(model, data, verbose=False)
        values |= fitting.callback_metrics
        assert all(values[f"{stage}/loss"].isfinite() for stage in ("train", "val", "test"))

    def test_inherits_semantic_segmentation(self) -> None:
        assert isinstance(self.build(), SemanticSegmentation)
