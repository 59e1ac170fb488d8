"""What every technique that draws pictures owes its users. Inherit, and define ``build``."""

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
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.optimizers import Optim
from tests.contracts.module import trainer


class CountingScores:
    """Scores that count what they are given and what they draw."""

    validations = 0

    def __init__(self, draw: Callable[[Generative, int], torch.Tensor]) -> None:
        self.draw = draw

    def prepare(self, module: LightningModule) -> None:
        self.seen, self.labels = 0, 0

    def wants(self, stage: str) -> bool:
        return True

    def update(self, stage: str, images: torch.Tensor, batch: dict[str, Any]) -> None:
        assert images.dtype == torch.uint8
        self.seen += len(images)
        self.labels += len(batch.get("label", ()))

    def compute(self, stage: str, module: Generative) -> dict[str, float]:
        assert not module.training
        drawn = self.draw(module, 2)
        return {"seen": float(self.seen), "drawn": float(len(drawn))}


class GenerationContract:
    """Inherit as ``class TestMyTechnique(GenerationContract)``."""

    image_shape = (3, 16, 16)
    num_classes: int | None = None  # of a conditional technique: 5
    loss = "loss"  # what a validation logs
    by_heart: tuple[str, float] | None = None  # a term of the loss, and what 150 steps on one batch must reach

    def build(self, **kwargs: Any) -> Generative:
        """The technique, tiny, for ``image_shape`` and ``num_classes``."""
        raise NotImplementedError

    def objects(self) -> dict[str, Any]:
        """What ``build`` passes that is no plain data, and so must be passed again to ``load_from_checkpoint``."""
        return {}

    def data(self, **kwargs: Any) -> ShapesImages:
        sizes = {"train_size": 8, "val_size": 8, "test_size": 8, "batch_size": 4, "num_workers": 0, "side": 16}
        return ShapesImages(**{**sizes, **kwargs})

    def drawn(self, model: Generative, n: int, seed: int = 0) -> torch.Tensor:
        """n pictures, of different prompts if there are any."""
        return model.sample(n, labels=self.labels(n), generator=torch.Generator().manual_seed(seed))

    def prompts(self, n: int) -> dict[str, Any]:
        """What they are drawn from in prediction, besides the seeds."""
        return {} if self.num_classes is None else {"label": self.labels(n)}

    def labels(self, n: int) -> torch.Tensor | None:
        return None if self.num_classes is None else torch.arange(n) % self.num_classes

    def pictures(self, n: int) -> torch.Tensor:
        data = self.data()
        data.setup("test")
        images = torch.stack([data.dataset("test")[index]["image"] for index in range(n)])
        return data.on_after_batch_transfer({"image": images})["image"]

    def test_draws_pictures_of_the_stated_shape_and_range(self) -> None:
        model = self.build()
        pictures = self.drawn(model, 3)
        assert pictures.shape == (3, *self.image_shape)
        assert pictures.dtype == torch.float32
        assert not pictures.requires_grad
        assert -1 <= pictures.min() <= pictures.max() <= 1
        assert model.training  # the mode it was in

    def test_the_generator_alone_decides(self) -> None:
        model, drawn = self.build(), []
        for seed in (0, 0, 1):
            torch.randn(3)  # the global generator has no say
            before = torch.get_rng_state()
            drawn.append(self.drawn(model, 2, seed))
            assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    def test_there_and_back(self) -> None:
        model, x, labels = self.build().eval(), self.pictures(3), self.labels(3)
        z = model.encode(x, labels=labels)
        assert z.shape == model.draw_latents(3).shape
        torch.testing.assert_close(model.decode(z, labels=labels), model.reconstruct(x, labels=labels))
        again = model.reconstruct(x, labels=labels)
        assert torch.equal(again, model.reconstruct(x, labels=labels))
        assert again.shape == x.shape

    def test_interpolates_from_one_reconstruction_to_the_other(self) -> None:
        model, x, labels = self.build(), self.pictures(4), self.labels(2)
        a, b = x[:2], x[2:]
        way = model.interpolate(a, b, 5, labels=labels)
        assert way.shape == (2, 5, *self.image_shape)
        torch.testing.assert_close(way[:, 0], model.reconstruct(a, labels=labels), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(way[:, -1], model.reconstruct(b, labels=labels), atol=1e-4, rtol=1e-4)

    def test_predicts_the_same_pictures_in_batches_of_any_size(self) -> None:
        model, seeds = self.build().eval(), torch.tensor([5, 17, 2**40])
        batch = {"seed": seeds, **self.prompts(3)}
        together = model.predict_step(batch)
        for i in range(3):
            alone = model.predict_step({key: value[i : i + 1] for key, value in batch.items()})
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(together[0], together[1])

    def test_drawing_leaves_every_part_in_its_mode(self) -> None:
        model = self.build()
        frozen = model.networks()[0]
        frozen.eval()
        before = [module.training for module in model.modules()]
        self.drawn(model, 2)
        assert [module.training for module in model.modules()] == before

    def test_what_cannot_be_drawn_is_refused(self) -> None:
        model, x = self.build(), self.pictures(2)
        for n in (0, -1):
            with pytest.raises(UsageError, match=f"{n} pictures"):
                model.sample(n, labels=self.labels(2))
        for a, b, steps in ((x, x, 1), (x[:1], x, 3), (x, x[:1], 3)):
            with pytest.raises(UsageError, match="interpolate"):
                model.interpolate(a, b, steps, labels=self.labels(len(a)))

    def test_labels_are_asked_for_where_they_are_needed(self) -> None:
        model = self.build()
        if self.num_classes is None:
            with pytest.raises(UsageError, match="unconditional"):
                model.sample(2, labels=[0, 1])
            with pytest.raises(UsageError, match="unconditional"):  # in a file's name it would be a lie
                model.predict_step({"seed": torch.tensor([1]), "label": torch.tensor([0])})
            with pytest.raises(UsageError, match="no captions"):
                model.predict_step({"seed": torch.tensor([1]), "caption": ["a red circle"]})
            return
        with pytest.raises(UsageError, match="needs labels"):
            model.sample(2)
        with pytest.raises(UsageError, match=f"no class {self.num_classes}"):
            model.sample(2, labels=[0, self.num_classes])
        with pytest.raises(UsageError, match="2 pictures"):
            model.sample(2, labels=[0])
        with pytest.raises(UsageError, match="whole numbers"):
            model.sample(2, labels=torch.tensor([0.9, 1.0]))
        with pytest.raises(UsageError, match="needs labels"):
            model.predict_step({"seed": torch.tensor([1])})

    def test_logs_stage_and_name_and_scores(self, tmp_path: Path) -> None:
        model, data = self.build(scores=CountingScores(self.drawn)), self.data()
        fitting = trainer(tmp_path, log_every_n_steps=1)
        fitting.fit(model, data)
        names = set(fitting.callback_metrics)
        assert {f"val/{self.loss}", "val/seen", "val/drawn"} <= names
        assert any(name.startswith("train/") and name.endswith("loss") for name in names)
        assert all(value.isfinite() for value in fitting.callback_metrics.values())
        fitting.test(model, data, verbose=False)
        assert fitting.callback_metrics["test/seen"] == 8
        names |= set(fitting.callback_metrics)
        assert all(name.split("/")[0] in ("train", "val", "test") for name in names)

    def test_comes_back_from_its_checkpoint(self, tmp_path: Path) -> None:
        saving = ModelCheckpoint(tmp_path, "it", save_on_train_epoch_end=True)
        model = self.build()
        trainer(tmp_path, enable_checkpointing=True, callbacks=[saving], limit_val_batches=0).fit(model, self.data())
        again = type(model).load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True, **self.objects())
        assert torch.equal(self.drawn(model, 2), self.drawn(again, 2))

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
        model, data = self.build(scores=CountingScores(self.drawn)), self.data()
        fitting = trainer(tmp_path, precision=precision, log_every_n_steps=1)
        fitting.fit(model, data)
        values = dict(fitting.callback_metrics)
        fitting.test(model, data, verbose=False)
        values |= fitting.callback_metrics
        assert all(value.isfinite() for value in values.values())
        assert {f"val/{self.loss}", f"test/{self.loss}", "val/drawn", "test/drawn"} <= values.keys()

    def test_learns_one_batch_by_heart(self, tmp_path: Path) -> None:
        if self.by_heart is None:
            pytest.skip("two networks that play against each other have no loss that falls")
        name, value = self.by_heart
        fitting = trainer(tmp_path, max_steps=150, max_epochs=-1, limit_val_batches=0, log_every_n_steps=1)
        model = self.build(optim=Optim(lambda params: torch.optim.AdamW(params, lr=1e-2)))
        fitting.fit(model, self.data(train_size=4))
        assert fitting.callback_metrics[f"train/{name}"] < value

    def test_other_ranges_and_shapes_are_refused(self, tmp_path: Path) -> None:
        for wrong, said in (
            ({"mean": [0.0] * 3, "std": [1.0] * 3}, r"\[-1.0, 1.0\].*data.mean"),
            ({"side": 32}, "model.image_shape"),
        ):
            with pytest.raises(UsageError, match=said):
                trainer(tmp_path).fit(self.build(), self.data(**wrong))

    def test_a_shape_of_two_numbers_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"model.image_shape is \(16, 16\)"):
            type(self.build())((16, 16), **({} if self.num_classes is None else {"num_classes": self.num_classes}))

    def test_a_loss_that_is_not_finite_stops(self, tmp_path: Path) -> None:
        model = self.build()
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(torch.nan)
        with pytest.raises(TrainingError, match="not finite since batch 0 of epoch 0"):
            trainer(tmp_path, log_every_n_steps=1, num_sanity_val_steps=0).fit(model, self.data())
