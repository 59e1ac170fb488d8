"""Contract of the methods that generate images. Inherit, and define ``build``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.errors import TrainingError, UsageError
from darkroom.export.check import Reference, compare, require_agreement
from darkroom.export.checkpoint import TrainedMethod
from darkroom.export.formats.trace import example_inputs
from darkroom.export.generative.model import ExportedGenerator
from darkroom.export.write import write_method
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.optimizers import Optim
from darkroom.protocols.export import BATCH, ExportableParts
from tests.contracts.compilation import CompilationContract
from tests.contracts.export import EagerRunner
from tests.contracts.module import trainer
from tests.contracts.synchronization import SynchronizationContract


class CountingScores:
    """Scores that count real images and samples."""

    validations = 0

    def __init__(self, sample: Callable[[Generative, int], torch.Tensor]) -> None:
        self.sample = sample

    def prepare(self, module: LightningModule) -> None:
        self.seen, self.labels = 0, 0

    def needs_more(self, stage: str) -> bool:
        return True

    def update(self, stage: str, images: torch.Tensor, batch: dict[str, Any]) -> None:
        assert images.dtype == torch.uint8
        self.seen += len(images)
        self.labels += len(batch.get("label", ()))

    def compute(self, stage: str, module: Generative) -> dict[str, float]:
        assert not module.training
        samples = self.sample(module, 2)
        return {"seen": float(self.seen), "sampled": float(len(samples))}


def as_trained(model: Generative) -> TrainedMethod:
    """Return a model as export loads it, with random weights also where they are initially zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    assert isinstance(model, ExportableParts)
    normalization = [0.5] * model.image_shape[0], [0.5] * model.image_shape[0]
    return TrainedMethod(model.eval(), model, normalization, (), 0, Path("last.ckpt"))


class GenerationContract(SynchronizationContract, CompilationContract):
    """Inherit as ``class TestMyMethod(GenerationContract)``."""

    image_shape = (3, 16, 16)
    num_classes: int | None = None  # of a conditional method: 5
    loss = "loss"  # name of the loss in validation
    overfit_loss: tuple[str, float] | None = None  # a loss term, and its upper bound after 150 steps on one batch

    def build(self, **kwargs: Any) -> Generative:
        """Build the method, tiny, for ``image_shape`` and ``num_classes``."""
        raise NotImplementedError

    def object_arguments(self) -> dict[str, Any]:
        """Return arguments of ``build`` that are not plain data, which ``load_from_checkpoint`` needs again."""
        return {}

    def data(self, **kwargs: Any) -> ShapesImages:
        sizes = {"train_size": 8, "val_size": 8, "test_size": 8, "batch_size": 4, "num_workers": 0, "side": 16}
        return ShapesImages(**{**sizes, **kwargs})

    def generate(self, model: Generative, n: int, seed: int = 0) -> torch.Tensor:
        """Sample n images, from different prompts if the method has any."""
        return model.sample(n, labels=self.labels(n), generator=torch.Generator().manual_seed(seed))

    def prompts(self, n: int) -> dict[str, Any]:
        """Return the prompts of n images in prediction, besides the seeds."""
        return {} if self.num_classes is None else {"label": self.labels(n)}

    def labels(self, n: int) -> torch.Tensor | None:
        return None if self.num_classes is None else torch.arange(n) % self.num_classes

    def images(self, n: int) -> torch.Tensor:
        data = self.data()
        data.setup("test")
        images = torch.stack([data.dataset("test")[index]["image"] for index in range(n)])
        return data.on_after_batch_transfer({"image": images})["image"]

    def test_samples_have_stated_shape_and_range(self) -> None:
        model = self.build()
        images = self.generate(model, 3)
        assert images.shape == (3, *self.image_shape)
        assert images.dtype == torch.float32
        assert not images.requires_grad
        assert -1 <= images.min() <= images.max() <= 1
        assert model.training  # the mode it was in

    def test_generator_determines_samples(self) -> None:
        model, samples = self.build(), []
        for seed in (0, 0, 1):
            torch.randn(3)  # the global generator has no effect
            before = torch.get_rng_state()
            samples.append(self.generate(model, 2, seed))
            assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(samples[0], samples[1])
        assert not torch.equal(samples[0], samples[2])

    def test_reconstruction_is_decoded_encoding(self) -> None:
        model, x, labels = self.build().eval(), self.images(3), self.labels(3)
        z = model.encode(x, labels=labels)
        assert z.shape == model.draw_latents(3).shape
        torch.testing.assert_close(model.decode(z, labels=labels), model.reconstruct(x, labels=labels))
        again = model.reconstruct(x, labels=labels)
        assert torch.equal(again, model.reconstruct(x, labels=labels))
        assert again.shape == x.shape

    def test_interpolation_starts_and_ends_at_reconstructions(self) -> None:
        model, x, labels = self.build(), self.images(4), self.labels(2)
        a, b = x[:2], x[2:]
        way = model.interpolate(a, b, 5, labels=labels)
        assert way.shape == (2, 5, *self.image_shape)
        torch.testing.assert_close(way[:, 0], model.reconstruct(a, labels=labels), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(way[:, -1], model.reconstruct(b, labels=labels), atol=1e-4, rtol=1e-4)

    def test_predictions_do_not_depend_on_batch_size(self) -> None:
        model, seeds = self.build().eval(), torch.tensor([5, 17, 2**40])
        batch = {"seed": seeds, **self.prompts(3)}
        together = model.predict_step(batch)
        for i in range(3):
            alone = model.predict_step({key: value[i : i + 1] for key, value in batch.items()})
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(together[0], together[1])

    def test_sampling_preserves_training_mode(self) -> None:
        model = self.build()
        frozen = model.networks()[0]
        frozen.eval()
        before = [module.training for module in model.modules()]
        self.generate(model, 2)
        assert [module.training for module in model.modules()] == before

    def test_invalid_numbers_of_samples_raise(self) -> None:
        model, x = self.build(), self.images(2)
        for n in (0, -1):
            with pytest.raises(UsageError, match=f"at least 1 image, got {n}"):
                model.sample(n, labels=self.labels(2))
        for a, b, steps in ((x, x, 1), (x[:1], x, 3), (x, x[:1], 3)):
            with pytest.raises(UsageError, match="interpolate"):
                model.interpolate(a, b, steps, labels=self.labels(len(a)))

    def test_labels_are_required_only_by_conditional_methods(self) -> None:
        model = self.build()
        if self.num_classes is None:
            with pytest.raises(UsageError, match="unconditional"):
                model.sample(2, labels=[0, 1])
            with pytest.raises(UsageError, match="unconditional"):  # the label is used in the file name
                model.predict_step({"seed": torch.tensor([1]), "label": torch.tensor([0])})
            with pytest.raises(UsageError, match="not text-conditional"):
                model.predict_step({"seed": torch.tensor([1]), "caption": ["a red circle"]})
            return
        with pytest.raises(UsageError, match="needs labels"):
            model.sample(2)
        with pytest.raises(UsageError, match=f"got {self.num_classes}"):
            model.sample(2, labels=[0, self.num_classes])
        with pytest.raises(UsageError, match="2 images"):
            model.sample(2, labels=[0])
        with pytest.raises(UsageError, match="integers"):
            model.sample(2, labels=torch.tensor([0.9, 1.0]))
        with pytest.raises(UsageError, match="needs labels"):
            model.predict_step({"seed": torch.tensor([1])})

    def test_logs_losses_and_metrics_by_stage(self, tmp_path: Path) -> None:
        model, data = self.build(scores=CountingScores(self.generate)), self.data()
        fitting = trainer(tmp_path, log_every_n_steps=1)
        fitting.fit(model, data)
        names = set(fitting.callback_metrics)
        assert {f"val/{self.loss}", "val/seen", "val/sampled"} <= names
        assert any(name.startswith("train/") and name.endswith("loss") for name in names)
        assert all(value.isfinite() for value in fitting.callback_metrics.values())
        fitting.test(model, data, verbose=False)
        assert fitting.callback_metrics["test/seen"] == 8
        names |= set(fitting.callback_metrics)
        assert all(name.split("/")[0] in ("train", "val", "test") for name in names)

    def test_checkpoint_restores_samples(self, tmp_path: Path) -> None:
        saving = ModelCheckpoint(tmp_path, "it", save_on_train_epoch_end=True)
        model = self.build()
        trainer(tmp_path, enable_checkpointing=True, callbacks=[saving], limit_val_batches=0).fit(model, self.data())
        again = type(model).load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True, **self.object_arguments())
        assert torch.equal(self.generate(model, 2), self.generate(again, 2))

    def test_global_step_counts_batches(self, tmp_path: Path) -> None:
        fitting = trainer(tmp_path, max_epochs=-1, max_steps=3, limit_val_batches=0)
        fitting.fit(self.build(), self.data())
        assert fitting.global_step == 3

    def test_resumed_equals_uninterrupted(self, tmp_path: Path) -> None:
        def fit(epochs: int, name: str, path: Path | None = None) -> dict[str, Any]:
            saving = ModelCheckpoint(tmp_path, name, save_on_train_epoch_end=True)
            kwargs = {"max_epochs": epochs, "enable_checkpointing": True, "callbacks": [saving, ExactResume()]}
            torch.manual_seed(0)
            trainer(tmp_path, **kwargs).fit(self.build(), self.data(), ckpt_path=path, weights_only=True)
            return torch.load(tmp_path / f"{name}.ckpt", weights_only=True)

        whole = fit(2, "whole")
        fit(1, "half")
        continued = fit(2, "continued", tmp_path / "half.ckpt")
        for key, value in whole["state_dict"].items():
            assert torch.equal(value, continued["state_dict"][key]), key
        assert str(whole["optimizer_states"]) == str(continued["optimizer_states"])
        assert whole["global_step"] == continued["global_step"] == 4
        again = self.build()
        again.load_state_dict(whole["state_dict"])

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
    def test_trains_in_half_precision(self, tmp_path: Path, precision: str) -> None:
        model, data = self.build(scores=CountingScores(self.generate)), self.data(test_size=20)
        fitting = trainer(tmp_path, precision=precision, log_every_n_steps=1)
        fitting.fit(model, data)
        values = dict(fitting.callback_metrics)
        fitting.test(model, data, verbose=False)
        values |= fitting.callback_metrics
        assert all(value.isfinite() for value in values.values())
        assert {f"val/{self.loss}", f"test/{self.loss}", "val/sampled", "test/sampled"} <= values.keys()

    def test_exported_parts_agree_with_model(self) -> None:
        trained = as_trained(self.build())
        assert isinstance(trained.exportable, ExportableParts)
        for name, graph in trained.exportable.export_graphs(trained.normalization).items():
            reference = Reference(trained.model, graph, "generation", trained.normalization)
            samples = [example_inputs(graph, {BATCH: batch, "tokens": 5}) for batch in (1, 3)]
            require_agreement(compare(reference, EagerRunner(graph), samples), "values", name)

    def to_predict(self, seeds: list[int]) -> dict[str, Any]:
        """Return a batch of prediction."""
        return {"seed": torch.tensor(seeds), **self.prompts(len(seeds))}

    @pytest.mark.slow  # traces and writes files
    def test_exported_files_predict_as_model(self, tmp_path: Path) -> None:
        trained, batch = as_trained(self.build()), self.to_predict([5, 2**40 + 1])
        written = write_method(trained, None, "onnx", tmp_path / "model.onnx")
        assert all(BATCH in one.description.axes() for one in written)
        exported = ExportedGenerator(str(written[0].path))
        images, expected = exported.predict_step(batch), trained.model.predict_step(batch)
        assert (exported.to_uint8(images).int() - exported.to_uint8(expected).int()).abs().max() <= 1
        assert not torch.equal(images[0], images[1])

    @pytest.mark.slow  # 4 to 9 seconds for most methods
    def test_overfits_one_batch(self, tmp_path: Path) -> None:
        if self.overfit_loss is None:
            pytest.skip("the losses of a GAN do not fall")
        name, value = self.overfit_loss
        fitting = trainer(tmp_path, max_steps=150, max_epochs=-1, limit_val_batches=0, log_every_n_steps=1)
        model = self.build(optim=Optim(lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True)))
        fitting.fit(model, self.data(train_size=4))
        assert fitting.callback_metrics[f"train/{name}"] < value

    def test_mismatched_value_range_and_image_shape_raise(self, tmp_path: Path) -> None:
        for wrong, message in (
            ({"mean": [0.0] * 3, "std": [1.0] * 3}, r"\[-1.0, 1.0\].*data.mean"),
            ({"side": 32}, "model.image_shape"),
        ):
            with pytest.raises(UsageError, match=message):
                trainer(tmp_path).fit(self.build(), self.data(**wrong))

    def test_image_shape_of_two_numbers_raises(self) -> None:
        method: Any = type(self.build())  # the shape has a wrong type on purpose
        with pytest.raises(UsageError, match=r"model.image_shape must be .*got \(16, 16\)"):
            method((16, 16), **({} if self.num_classes is None else {"num_classes": self.num_classes}))

    def test_non_finite_loss_stops_training(self, tmp_path: Path) -> None:
        model = self.build()
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(torch.nan)
        with pytest.raises(TrainingError, match="not finite since batch 0 of epoch 0"):
            trainer(tmp_path, log_every_n_steps=1, num_sanity_val_steps=0).fit(model, self.data())
