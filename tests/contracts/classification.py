"""Contract of every image classifier. Inherit, and define ``build``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.classification import ImageClassifier
from darkroom.lightning_modules.optimizers import Optim
from tests.contracts.compilation import CompilationContract
from tests.contracts.export import ExportContract
from tests.contracts.module import trainer
from tests.contracts.synchronization import SynchronizationContract


class ClassificationContract(ExportContract, SynchronizationContract, CompilationContract):
    """Inherit as ``class TestMyClassifier(ClassificationContract)``."""

    steps = 60  # on one batch ...
    overfit_loss = 0.1  # ... until the loss on it is below this
    lr = 1e-2
    side = 32
    exported_sides = [(32, 32)]

    def build(self, **kwargs: Any) -> ImageClassifier:
        """Build the classifier, tiny, for the eight colours of Shapes."""
        raise NotImplementedError

    def data(self, **kwargs: Any) -> ShapesImages:
        sizes = {"train_size": 8, "val_size": 5, "test_size": 5, "batch_size": 8, "num_workers": 0, "side": self.side}
        return ShapesImages(**{**sizes, "label": "colour", **kwargs})

    def fit(self, model: ImageClassifier, folder: Path, **kwargs: Any) -> Trainer:
        fitting = trainer(folder, **{"log_every_n_steps": 1, **kwargs})
        fitting.fit(model, self.data())
        return fitting

    @pytest.mark.slow  # 1 to 3 seconds
    def test_overfits_one_batch(self, tmp_path: Path) -> None:
        model = self.build(optim=Optim(lambda params: torch.optim.AdamW(params, lr=self.lr, fused=True)))
        fitting = self.fit(model, tmp_path, max_steps=self.steps, max_epochs=-1, limit_val_batches=0)
        assert fitting.callback_metrics["train/loss"] < self.overfit_loss

    def test_metrics_are_named_by_stage(self, tmp_path: Path) -> None:
        model, data = self.build(), self.data()
        fitting = self.fit(model, tmp_path)
        names = set(fitting.callback_metrics)
        fitting.test(model, data, verbose=False)
        names |= set(fitting.callback_metrics)
        scores = {"loss", "accuracy", "top5_accuracy", "mean_accuracy"}
        scores |= {f"accuracy/{name}" for name in data.class_names}
        assert names >= {"train/loss"} | {f"{stage}/{score}" for stage in ("val", "test") for score in scores}
        assert all(name.split("/")[0] in ("train", "val", "test") for name in names)
        assert model.monitor[0] in names

    def test_checkpoint_restores_predictions(self, tmp_path: Path) -> None:
        model, saving = self.build(), ModelCheckpoint(tmp_path, "it")
        self.fit(model, tmp_path, enable_checkpointing=True, callbacks=[saving])
        saved = torch.load(tmp_path / "it.ckpt", weights_only=True)
        again = self.build()
        again.load_state_dict(saved["state_dict"])
        image = torch.randn(2, 3, self.side, self.side)
        assert torch.equal(model.eval()(image), again.eval()(image))

    def test_predictions_are_probabilities(self) -> None:
        model = self.build().eval()
        probabilities = model.predict_step({"image": torch.randn(3, 3, self.side, self.side)})
        assert probabilities.shape == (3, model.num_classes)
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities.sum(1), torch.ones(3))

    def test_evaluation_returns_probabilities_and_losses(self, tmp_path: Path) -> None:
        model, batch = self.build().eval(), {"image": torch.randn(3, 3, self.side, self.side)}
        model.trainer = trainer(tmp_path)
        model.setup("test")
        vars(model)["log_evaluation"] = lambda values, samples: None
        outputs = model.test_step(batch | {"label": torch.tensor([0, 7, 3])}, 0)
        expected = -outputs["probabilities"][torch.arange(3), [0, 7, 3]].log()
        torch.testing.assert_close(outputs["losses"], expected)

    def test_bf16_mixed_training_is_finite(self, tmp_path: Path) -> None:
        fitting = self.fit(self.build(), tmp_path, precision="bf16-mixed")
        assert all(fitting.callback_metrics[f"{stage}/loss"].isfinite() for stage in ("train", "val"))

    def test_inherits_image_classifier(self) -> None:
        assert isinstance(self.build(), ImageClassifier)
