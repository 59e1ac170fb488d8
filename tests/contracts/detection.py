"""Contract of every object detector. Inherit, and define ``build``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.inference import DetectionInference
from darkroom.lightning_modules.optimizers import Optim
from tests.contracts.compilation import CompilationContract
from tests.contracts.export import ExportContract
from tests.contracts.module import trainer
from tests.contracts.synchronization import SynchronizationContract


class DetectionContract(ExportContract, SynchronizationContract, CompilationContract):
    """Inherit as ``class TestMyMethod(DetectionContract)``."""

    steps = 150  # on one batch ...
    overfit_ap = 0.5  # ... until VOC AP50 on it is at least this
    lr = 2e-3
    epochs = 1  # of a whole fit
    refuses: str | None = None  # message for images of extreme aspect ratios, if they are refused

    def build(self, **kwargs: Any) -> ObjectDetection:
        """Build the method, tiny, for the five classes of Shapes."""
        raise NotImplementedError

    def data(self, **kwargs: Any) -> ShapesDetection:
        sizes = {"train_size": 4, "val_size": 4, "test_size": 4, "batch_size": 4, "num_workers": 0, "side": 64}
        return ShapesDetection(**{**sizes, **kwargs})

    def data_to_overfit(self) -> ShapesDetection:
        return self.data(objects=(1, 2))

    def fit(self, model: ObjectDetection, data: ShapesDetection, folder: Path, **kwargs: Any) -> Trainer:
        fitting = trainer(folder, **{"log_every_n_steps": 1, "max_epochs": self.epochs, **kwargs})
        fitting.fit(model, data)
        return fitting

    def batch(self, **kwargs: Any) -> dict[str, Any]:
        """Return a batch after `on_after_batch_transfer`."""
        data = self.data(**kwargs)
        data.setup("test")
        return data.on_after_batch_transfer(next(iter(data.test_dataloader())))

    def assert_trains_one_step_and_detects(self, model: ObjectDetection) -> None:
        batch, optimizer = self.batch(), torch.optim.SGD(model.parameters(), 1e-3)
        torch.stack(list(model.loss_terms(batch).values())).sum().backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == []
        optimizer.step()
        with torch.inference_mode():
            assert len(model.eval().predict_step(batch, 0)) == len(batch["image"])

    def test_tiles_detect_in_pixels_of_image(self) -> None:
        model, batch = (
            self.build(inference=DetectionInference(tile=40, score_threshold=0.0, max_detections=50)),
            self.batch(),
        )
        with torch.inference_mode():
            found = model.eval().predict_step(batch)
        for one, image in zip(found, batch["image"], strict=True):
            assert 0 < len(one["boxes"]) <= 50
            assert one["boxes"].min() >= 0
            assert (one["boxes"][:, 2:] <= torch.tensor(image.shape[:-3:-1])).all()
            assert one["boxes"].max() > 40
            assert (one["scores"].diff() <= 0).all()
            assert model.masks == ("masks" in one)
            if "masks" in one:
                assert one["masks"].shape == (len(one["boxes"]), *image.shape[-2:])

    @pytest.mark.slow  # 4 to 9 seconds for most methods
    def test_overfits_one_batch(self, tmp_path: Path) -> None:
        model = self.build(optim=Optim(lambda params: torch.optim.AdamW(params, lr=self.lr, fused=True)))
        data = self.data_to_overfit()
        self.fit(model, data, tmp_path, limit_val_batches=0, max_epochs=self.steps)
        data.setup("fit")
        loader = data.train_dataloader()
        testing = trainer(tmp_path)
        model.eval()
        (scores,) = testing.test(model, DataOf(data, loader), verbose=False)
        assert scores["test/VOC_AP50"] >= self.overfit_ap

    def test_metrics_are_named_by_stage(self, tmp_path: Path) -> None:
        model, data = self.build(), self.data()
        fitting = self.fit(model, data, tmp_path)
        names = set(fitting.callback_metrics)
        fitting.test(model, data, verbose=False)
        names |= set(fitting.callback_metrics)
        scores = {"mAP", "AP50", "AP75", "VOC_AP50", "VOC07_AP50", *(f"AP/{name}" for name in data.class_names)}
        expected = {f"{stage}/{score}" for stage in ("val", "test") for score in scores}
        assert names >= expected | {"train/loss", "val/loss", "test/images_per_second"}
        assert all(name.split("/")[0] in ("train", "val", "test") for name in names)
        terms = {name.removeprefix("train/") for name in names if name.startswith("train/")}
        assert {f"val/{term}" for term in terms} <= names

    def test_predictions_have_stated_keys_shapes_and_types(self) -> None:
        model, batch = self.build().eval(), self.batch()
        with torch.inference_mode():
            found = model.predict_step(batch, 0)
        assert len(found) == len(batch["image"])
        for one, image in zip(found, batch["image"], strict=True):
            height, width = image.shape[-2:]
            count = len(one["boxes"])
            assert one["boxes"].shape == (count, 4)
            assert one["boxes"].dtype == one["scores"].dtype == torch.float32
            assert one["scores"].shape == one["labels"].shape == (count,)
            assert one["labels"].dtype == torch.int64
            if count:
                assert (one["boxes"] >= 0).all()
                assert (one["boxes"][:, 2] <= width).all()
                assert (one["boxes"][:, 3] <= height).all()
                assert (one["boxes"][:, 2:] > one["boxes"][:, :2]).all()
                assert 0 <= one["scores"].min() <= one["scores"].max() <= 1
                assert (one["scores"].diff() <= 0).all()
                assert 1 <= one["labels"].min() <= one["labels"].max() <= model.num_classes
            if "masks" in one:
                assert one["masks"].shape == (count, height, width)
                assert one["masks"].dtype == torch.bool

    def test_batch_accepts_mixed_image_sizes(self) -> None:
        model, batch = self.build(), self.batch()
        batch["image"][1] = nn.functional.pad(batch["image"][1], (0, 20, 0, 9))
        if "masks" in batch["target"][1]:
            batch["target"][1]["masks"] = nn.functional.pad(batch["target"][1]["masks"], (0, 20, 0, 9))
        loss = torch.stack(list(model.loss_terms(batch).values())).sum()
        assert loss.isfinite()
        with torch.inference_mode():
            assert len(model.eval().predict_step(batch, 0)) == 4

    @pytest.mark.parametrize("size", [(1, 900), (900, 1), (2000, 2)], ids=["wide", "high", "thin"])
    def test_extreme_aspect_ratios_work_or_are_refused(self, size: tuple[int, int]) -> None:
        model, batch = self.build(), self.batch()
        box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
        target = {"boxes": box, "labels": torch.tensor([1]), "image_id": 0}
        if "masks" in batch["target"][0]:
            target["masks"] = torch.ones(1, *size, dtype=torch.bool)
        few = batch | {"image": [torch.rand(3, *size)] * 2, "target": [target] * 2}
        if "proposals" in batch:
            few["proposals"] = [box] * 2
        with pytest.raises(UsageError, match=self.refuses) if self.refuses else nullcontext():
            assert torch.stack(list(model.loss_terms(few).values())).sum().isfinite()
        with torch.inference_mode(), pytest.raises(UsageError, match=self.refuses) if self.refuses else nullcontext():
            assert len(model.eval().predict_step(few, 0)) == 2

    def test_loss_is_finite_without_objects(self) -> None:
        for emptied in ([0], [0, 1, 2, 3]):
            model, batch = self.build(), self.batch()
            for index in emptied:
                batch["target"][index] = {
                    key: value[:0] if isinstance(value, Tensor) else value
                    for key, value in batch["target"][index].items()
                }
            loss = torch.stack(list(model.loss_terms(batch).values())).sum()
            loss.backward()
            assert loss.isfinite()
            grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            assert grads
            assert all(grad.isfinite().all() for grad in grads)

    def test_validation_has_no_side_effects(self) -> None:
        model, batch = self.build().eval(), self.batch()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        random = torch.get_rng_state()
        with torch.inference_mode():
            first, found = model.evaluate(batch)
            again, _ = model.evaluate(batch)
            plain = model.detect(batch)
        assert not model.network.training
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert torch.equal(random, torch.get_rng_state())
        assert all(torch.equal(first[name], again[name]) for name in first)
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one["boxes"], other["boxes"])
            torch.testing.assert_close(one["scores"], other["scores"])

    def test_checkpoint_restores_predictions(self, tmp_path: Path) -> None:
        model, data = self.build(), self.data()
        saving = ModelCheckpoint(tmp_path, "it")
        self.fit(model, data, tmp_path, enable_checkpointing=True, callbacks=[saving])
        saved = torch.load(tmp_path / "it.ckpt", weights_only=True)
        again = self.build()
        again.load_state_dict(saved["state_dict"])
        batch = self.batch()
        with torch.inference_mode():
            found, same = model.eval().detect(batch), again.eval().detect(batch)
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(found, same, strict=True))

    def test_bf16_mixed_training_is_finite(self, tmp_path: Path) -> None:
        model, data = self.build(), self.data()
        fitting = self.fit(model, data, tmp_path, precision="bf16-mixed")
        values = dict(fitting.callback_metrics)
        fitting.test(model, data, verbose=False)
        values |= fitting.callback_metrics
        assert all(values[name].isfinite() for name in ("train/loss", "val/loss", "val/VOC_AP50", "test/VOC_AP50"))

    def test_invalid_targets_raise(self) -> None:
        model, batch = self.build(), self.batch()
        right = {"boxes": torch.tensor([[5.0, 5, 20, 20]]), "labels": torch.tensor([1]), "image_id": 0}
        for change, message in (
            ({"boxes": torch.tensor([[5.0, 5, 5, 9]])}, "has no area"),
            ({"boxes": torch.tensor([[5.0, 5, 99, 9]])}, "reaches out"),
            ({"boxes": torch.tensor([[5.0, 5, torch.nan, 9]])}, "not finite"),
            ({"labels": torch.tensor([0])}, "label outside of 1 to 5"),
            ({"labels": torch.tensor([6])}, "label outside of 1 to 5"),
        ):
            batch["target"][2] = right | change
            with pytest.raises(UsageError, match=f"box 0 of image 2 .*{message}"):
                model.training_step(batch, 0)

    def test_inherits_object_detection(self) -> None:
        assert isinstance(self.build(), ObjectDetection)


class DataOf(ShapesDetection):
    """Datamodule whose test batch is the training batch of other data."""

    def __init__(self, data: ShapesDetection, loader: Any) -> None:
        super().__init__(num_workers=0, side=data.generator.side)
        self.loader = loader

    def setup(self, stage: str) -> None:
        pass

    def test_dataloader(self) -> Any:
        return self.loader
