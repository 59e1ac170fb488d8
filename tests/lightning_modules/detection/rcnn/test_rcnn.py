"""R-CNN: numbers of the paper and of the authors' code for each stage, and resuming within stages."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.datamodules.proposals.methods import GridProposals
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.boxes import decode, match
from darkroom.lightning_modules.detection.rcnn import (
    RCNN,
    Examples,
    HardNegatives,
    RCNNNetwork,
    fit_boxes,
    rcnn,
    sample_windows,
)
from darkroom.lightning_modules.detection.rcnn.svm import linear_svm
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.optimizers import CaffeSGD, Optim
from tests.contracts.detection import DetectionContract
from tests.contracts.module import trainer

OFF = {"enabled": False}


def small(**kwargs: Any) -> RCNN:
    torch.manual_seed(0)
    return RCNN(**{"num_classes": 5, "window": 64, "width": 0.05, "regions": 16, **kwargs})


def shapes(**kwargs: Any) -> ShapesDetection:
    sizes = {"train_size": 8, "val_size": 2, "test_size": 2, "batch_size": 4, "num_workers": 0, "side": 64}
    proposals = {"proposals": GridProposals(limit=40), "proposals_dir": "proposals", "proposal_workers": 0}
    return ShapesDetection(**{**sizes, **proposals, **kwargs})


class TestRCNN(DetectionContract):
    steps, overfit_ap, lr, epochs = 60, 0.8, 1e-3, 3

    def build(self, **kwargs: Any) -> RCNN:
        network = {"backbone": "vgg11_bn", "window": 32, "width": 0.06, "regions": 64, "new_layer_factor": 1.0}
        few = {
            "svm": {"cost": 0.1},
            "box_regression": {"penalty": 10.0},
        }  # the values of the paper are for thousands of images
        return small(**{**network, **few, **kwargs})

    def data(self, limit: int = 24, **kwargs: Any) -> ShapesDetection:
        grid = GridProposals(sides=(0.2, 0.28, 0.4, 0.55), aspect_ratios=(0.75, 1.0, 1.33), limit=limit)
        return super().data(proposals=grid, proposals_dir="proposals", proposal_workers=0, **kwargs)

    def data_to_overfit(self) -> ShapesDetection:
        return self.data(limit=500, objects=(1, 2))  # enough proposals that some fit every object

    def test_metrics_are_named_by_stage(self, tmp_path: Path) -> None:
        """Check also the numbers of examples of the later stages."""
        names = set(self.fit(self.build(), self.data(), tmp_path).callback_metrics)
        assert names >= {"train/loss", "train/class", "val/loss", "val/class", "val/mAP", "val/VOC_AP50"}
        assert {name for name in names if name.startswith("train/")} == {
            *("train/loss", "train/class", "train/box_pairs", "train/svm_negatives")
        }


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestRCNNOnMobileNet(TestRCNN):
    test_overfits_one_batch = None

    def build(self, **kwargs: Any) -> RCNN:
        return super().build(**{"backbone": "mobilenet_v2", "width": 0.1, **kwargs})


def test_features_of_a_body_are_its_last_map_and_its_average() -> None:
    network = RCNNNetwork(5, "mobilenet_v2", window=70, width=0.05).eval()
    crops = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        pool5, fc7 = network.hidden(crops)
        maps = network.features.last_map(crops)
        torch.testing.assert_close(network(crops), network.last(fc7))
    assert maps.shape[-2:] == (3, 3)
    assert torch.equal(pool5, maps.flatten(1))
    assert torch.equal(fc7, maps.mean((2, 3)))
    assert network.regression.shape == (5, 4, pool5.shape[1] + 1)


# --- regions and crops ------------------------------------------------------------------------------------------------


def targets_of(*objects: list[tuple[list[float], int]]) -> list[dict[str, Tensor]]:
    return [
        {
            "boxes": torch.tensor([box for box, _ in some]).view(-1, 4),
            "labels": torch.tensor([label for _, label in some], dtype=torch.long),
        }
        for some in objects
    ]


def test_batch_has_32_objects_and_96_background_windows() -> None:
    """Check section 2.3 over all images of a batch, also with few objects or little background."""
    targets = targets_of([([0.0, 0, 40, 40], 3), ([50.0, 50, 90, 90], 1)], [])
    proposals = [torch.rand(300, 2).mul(60).repeat(1, 2) + torch.tensor([0.0, 0, 40, 40]) for _ in range(2)]
    regions, labels = sample_windows(proposals, targets)
    assert [len(regions), len(labels), (labels > 0).sum()] == [2, 128, 32]
    assert len(regions[0]) + len(regions[1]) == 128
    assert min(len(regions[0]), len(regions[1])) > 32  # both images
    iou, truth = match(regions[0], targets[0]["boxes"])
    assert torch.equal(iou >= 0.5, labels[: len(regions[0])] > 0)
    objects = iou >= 0.5
    assert torch.equal(targets[0]["labels"][truth[objects]], labels[: len(regions[0])][objects])
    assert labels[len(regions[0]) :].max() == 0
    few, labels = sample_windows([torch.tensor([[60.0, 60, 90, 90]])], targets_of([([0.0, 0, 40, 40], 3)]))
    assert (labels == 3).sum() == 32
    assert (labels == 0).sum() == 96
    assert torch.equal(few[0].unique(dim=0), torch.tensor([[0.0, 0, 40, 40], [60, 60, 90, 90]]))


def test_window_of_iou_one_half_is_an_object() -> None:
    halves = torch.tensor([[0.0, 0, 40, 20], [0, 0, 40, 19]])
    regions, labels = sample_windows([halves], targets_of([([0.0, 0, 40, 40], 2)]))
    assert labels[(regions[0] == halves[0]).all(1)].unique().tolist() == [2]
    assert labels[(regions[0] == halves[1]).all(1)].unique().tolist() == [0]


def test_empty_proposals_give_finite_loss() -> None:
    model, image = small(), torch.rand(3, 64, 64)
    for boxes in (torch.zeros(0, 4), torch.tensor([[0.0, 0, 30, 30]])):
        batch = {"image": [image], "proposals": [boxes], "target": targets_of([])}
        loss = model.loss_terms(batch)["class"]
        loss.backward()
        assert loss.isfinite()
    with torch.inference_mode():
        found = model.eval().detect({"image": [image], "proposals": [torch.zeros(0, 4)]})
    assert found[0]["boxes"].shape == (0, 4)


def test_crops_have_16_pixels_of_context_and_mean_padding() -> None:
    """Check that a box of 195 pixels gives a crop of 227 at scale 1 (appendix A)."""
    model, image = small(window=227), torch.rand(3, 240, 240)
    assert model.context == 16
    normalized = (image - model.mean) / model.std
    crop = model.crops(image, torch.tensor([[20.0, 20, 215, 215]]))[0]
    torch.testing.assert_close(crop, normalized[:, 4:231, 4:231], atol=1e-4, rtol=1e-4)
    crop = model.crops(image, torch.tensor([[0.0, 45, 195, 240]]))[0]
    torch.testing.assert_close(crop[:, :210, 17:], normalized[:, 29:239, 1:211], atol=1e-4, rtol=1e-4)
    assert crop[:, :, :15].abs().max() == crop[:, 213:].abs().max() == 0
    assert small(window=227).crops(image, torch.tensor([[7.0, 9, 60, 200]])).shape == (1, 3, 227, 227)


def test_network_matches_paper() -> None:
    """Check AlexNet at 227 pixels: 256 x 6 x 6 features at pool5, 4096 at fc7 (section 2.1)."""
    with torch.device("meta"):
        network = RCNNNetwork(20)
        pool5, fc7 = network.hidden(torch.empty(2, 3, 227, 227))
    assert pool5.shape == (2, 9216)
    assert fc7.shape == (2, 4096)
    assert sum(p.numel() for p in network.parameters()) == 61_100_840 - 4_097_000 + 4097 * 21
    new = RCNNNetwork(5, width=0.1).classifier[-1]
    assert new.weight.std().item() == pytest.approx(0.01, rel=0.1)


# --- hard negatives and boxes -----------------------------------------------------------------------------------------


def mining(cost: float = 0.1, max_negatives: int = 5000) -> tuple[HardNegatives, Tensor]:
    """Return negatives for a class at 3 on the first axis, and background around -3."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 4, generator=generator) / 4
    positives = noise[:20] + torch.tensor([3.0, 0, 0, 0])
    state = {"positives": positives, "labels": torch.ones(20, dtype=torch.long)}
    return HardNegatives(1, cost, max_negatives, state), noise[20:] - torch.tensor([3.0, 0, 0, 0])


def test_mining_adds_hard_negatives_and_drops_easy_ones() -> None:
    """Check the authors' settings: all negatives of the first image, later above -1.0001, dropped below -1.2."""
    svm, background = mining()
    every = torch.ones(40, 1, dtype=torch.bool)
    assert svm.select_hard(background, every).all()
    svm.add(background, every)
    assert svm.trained
    assert 0 < len(svm) < 40
    assert svm.scores(svm.negatives).min() >= -1.2
    planted = torch.tensor([[2.5, 1.5, 0, 0], [-9.0, 0, 0, 0]])  # a hard and an easy negative
    assert svm.scores(planted)[0] > 0
    hard = svm.select_hard(planted, torch.ones(2, 1, dtype=torch.bool))
    assert hard.tolist() == [[True], [False]]
    assert not svm.select_hard(planted, torch.zeros(2, 1, dtype=torch.bool)).any()
    svm.add(planted[hard[:, 0]].repeat(50, 1), hard[:1].repeat(50, 1))
    svm.train(torch.tensor([True]))
    assert svm.scores(planted)[0] < 0
    assert (svm.negatives == planted[0]).all(1).any()


def test_svm_is_retrained_after_2000_new_negatives() -> None:
    svm, background = mining()
    svm.add(background, torch.ones(40, 1, dtype=torch.bool))
    before, hard = svm.weights.clone(), torch.tensor([[2.5, 1.5, 0, 0]])
    svm.add(hard.repeat(2000, 1), torch.ones(2000, 1, dtype=torch.bool))
    assert torch.equal(svm.weights, before)
    svm.add(hard, torch.ones(1, 1, dtype=torch.bool))
    assert not torch.equal(svm.weights, before)
    assert svm.added.item() == 0


def test_classes_have_separate_negatives() -> None:
    """Check a feature that is negative for one class and positive for another."""
    positives = torch.tensor([[3.0, 0], [0, 3]])
    svm = HardNegatives(2, 0.1, 100, {"positives": positives, "labels": torch.tensor([1, 2])})
    svm.add(positives, ~torch.eye(2, dtype=torch.bool))
    targets = torch.tensor([[1, 0], [0, 1], [0, -1], [-1, 0]])
    expected = linear_svm(torch.cat([positives, positives]), targets, 0.1)
    torch.testing.assert_close(svm.weights, expected)


def test_hardest_negatives_are_kept_beyond_limit() -> None:
    svm, background = mining(max_negatives=6)
    svm.add(background, torch.ones(40, 1, dtype=torch.bool))
    assert len(svm) == 6
    hard = torch.tensor([[2.5, 1.5, 0, 0], [2.4, 1.4, 0, 0]])
    svm.add(hard, torch.ones(2, 1, dtype=torch.bool))
    assert len(svm) == 6
    assert all((svm.negatives == one).all(1).any() for one in hard)


def test_features_are_scaled_to_mean_norm_20() -> None:
    """Check the measurement on up to 200 regions of the first 200 images."""
    examples = Examples(2, 10)
    proposals = torch.rand(1000, 4)
    assert len(examples.select_for_norms(proposals)) == 200
    assert len(examples.select_for_norms(proposals[:7])) == 7
    assert len(examples.select_for_norms(proposals[:0])) == 0
    examples.images = 200
    assert len(examples.select_for_norms(proposals)) == 0
    pool5, fc7, none = torch.rand(50, 6), torch.rand(50, 8), torch.zeros(0, dtype=torch.long)
    norms = torch.stack([pool5.norm(dim=1), fc7.norm(dim=1)], 1)
    examples.add(fc7=fc7[:0], labels=none, pool5=pool5[:0], offsets=pool5[:0, :4], pair_labels=none, norms=norms)
    for features, scale in zip((pool5, fc7), examples.scales(), strict=True):
        assert (features * scale).norm(dim=1).mean().item() == pytest.approx(20)


def test_pairs_are_limited_per_class() -> None:
    examples, labels = Examples(2, 3), torch.tensor([1, 2, 1, 1, 2])
    examples.select_for_norms(torch.rand(9, 4))
    for start in (0, 5):
        numbers = torch.arange(5.0)[:, None] + start
        pairs = {"pool5": numbers, "offsets": numbers.expand(5, 4), "pair_labels": labels}
        examples.add(fc7=numbers, labels=labels, norms=numbers.expand(5, 2), **pairs)
    assert examples.concatenate("pool5").flatten().tolist() == [0, 1, 2, 3, 4, 6]
    assert examples.concatenate("pair_labels").tolist() == [1, 2, 1, 1, 2, 2]
    assert len(examples.concatenate("fc7")) == 10
    again = Examples(2, 3, examples.state_dict())
    assert len(again) == len(examples) == 6
    assert again.images == examples.images == 1
    assert torch.equal(again.counts, examples.counts)


def test_box_regression_matches_authors_code() -> None:
    """Compare with the authors' code: (A'A + lambda) b = A'y for whitened y, unwhitened afterwards."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator).double()
    y = (torch.randn(40, 4, generator=generator) @ torch.randn(4, 4, generator=generator)).double() / 9 + 0.3
    a, centred = torch.cat([x, torch.ones(40, 1)], 1), y - y.mean(0)
    d, v = torch.linalg.eigh(centred.T @ centred / 40)
    white = v @ torch.diag((d + 0.001) ** -0.5) @ v.T
    beta = torch.linalg.inv(a.T @ a + 10 * torch.eye(7)) @ a.T @ (centred @ white)
    expected = a @ beta @ torch.linalg.inv(white) + y.mean(0)
    weights = fit_boxes(x, y, 10.0)
    torch.testing.assert_close(x @ weights[:, :-1].T + weights[:, -1], expected)
    assert fit_boxes(x[:0], y[:0], 10.0).abs().max() == 0
    one = fit_boxes(x[:1], y[:1], 10.0)
    torch.testing.assert_close(x[:1] @ one[:, :-1].T + one[:, -1], y[:1])


# --- stages of a fit --------------------------------------------------------------------------------------------------


def fit(model: RCNN, folder: Path, epochs: int = 3, callbacks: tuple[Callback, ...] = (), **kwargs: Any) -> Trainer:
    data = kwargs.pop("data", None) or shapes()
    checkpoint = kwargs.pop("ckpt_path", None)
    fitting = trainer(
        folder, max_epochs=epochs, callbacks=list(callbacks), enable_checkpointing=bool(callbacks), **kwargs
    )
    fitting.fit(model, data, ckpt_path=checkpoint)
    return fitting


class StageRecorder(Callback):
    """Record the network after every training epoch and the solved stages at every validation."""

    def __init__(self) -> None:
        self.networks: list[dict[str, Tensor]] = []
        self.ready: list[list[bool]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: RCNN) -> None:
        self.networks.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: RCNN) -> None:
        if not trainer.sanity_checking:
            self.ready.append(pl_module.network.ready.tolist())


def test_later_stages_do_not_change_network_weights(tmp_path: Path) -> None:
    """Check also momentum, weight decay and batch norm."""
    watch = StageRecorder()
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1)
    model = small(backbone="vgg11_bn", window=32, optim=Optim(optimizer=optimizer))
    fitting = fit(model, tmp_path, callbacks=(watch,))
    first, second, third = watch.networks
    learned = {"svm", "regression", "ready"}
    for name in first.keys() - learned:
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], third[name]), name
    assert any(
        not torch.equal(first[name], value)
        for name, value in small(backbone="vgg11_bn", window=32).network.state_dict().items()
        if name in first
    )
    assert watch.ready == [[False, False], [False, True], [True, True]]
    assert first["svm"].abs().max() == 0 < third["svm"].abs().max()
    assert first["regression"].abs().max() == 0 < second["regression"].abs().max()
    assert fitting.global_step == 6
    assert model.network.training
    assert model.examples is None
    assert model.negatives is None


@pytest.mark.parametrize(
    ("options", "ready"),
    [
        ({"svm": OFF}, [[False, False], [False, False], [False, True]]),
        ({"box_regression": OFF}, [[False, False], [False, False], [True, False]]),
        ({"svm": OFF, "box_regression": OFF}, [[False, False]] * 3),
        ({"finetune_epochs": 1}, [[False, False], [False, True], [True, True]]),
    ],
)
def test_stages_run_in_last_epochs_and_are_optional(tmp_path: Path, options: dict, ready: list) -> None:
    watch = StageRecorder()
    fit(small(**options), tmp_path, callbacks=(watch,))
    assert watch.ready == ready


def test_svm_examples_follow_iou_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check positives (true boxes), negatives (IoU below .3 with boxes of the class) and pairs (IoU of at least .6)."""
    regions, added, mined, targets = [], [], [], []

    def hidden(self: RCNN, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        regions.append(boxes)
        return boxes, boxes

    def remember(kept: list, method: Callable) -> Callable:
        return lambda self, *args, **kwargs: (kept.append(kwargs or args), method(self, *args, **kwargs))[1]

    class Targets(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: RCNN, batch: Any, batch_idx: int) -> None:
            targets.extend(batch["target"])

    monkeypatch.setattr(RCNN, "_hidden", hidden)
    monkeypatch.setattr(RCNN, "_end", lambda self, phase: None)
    monkeypatch.setattr(Examples, "add", remember(added, Examples.add))
    monkeypatch.setattr(HardNegatives, "select_hard", remember(mined, HardNegatives.select_hard))
    fit(small(finetune_epochs=0), tmp_path, epochs=2, callbacks=(Targets(),), limit_val_batches=0)
    assert len(added) == len(mined) == 8
    for target, boxes, found in zip(targets[:8], regions[:8], added, strict=True):
        assert torch.equal(found["labels"], target["labels"])
        assert torch.equal(found["fc7"], target["boxes"])
        pairs = found["pool5"]
        iou, truth = match(pairs, target["boxes"])
        assert iou.min() >= 0.6
        assert torch.equal(found["pair_labels"], target["labels"][truth])
        torch.testing.assert_close(decode(found["offsets"], pairs, (1.0,) * 4), target["boxes"][truth])
        assert len(found["norms"]) == 40
        assert len(boxes) == len(pairs) + 40
    for target, boxes, (_, candidates) in zip(targets[8:], regions[8:], mined, strict=True):
        assert torch.equal(boxes[: len(target["boxes"])], target["boxes"])  # negatives of other classes
        for label in range(1, 6):
            iou, _ = match(boxes, target["boxes"][target["labels"] == label])
            assert torch.equal(candidates[:, label - 1], iou < 0.3)


def test_solutions_are_converted_to_unscaled_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solved, fits = [], []
    solve = RCNN._end

    def remember(self: RCNN, phase: str) -> None:
        scales, negatives = self.examples.scales(), self.negatives
        solve(self, phase)
        solved.append((scales, negatives))

    monkeypatch.setattr(RCNN, "_end", remember)
    monkeypatch.setattr(rcnn, "fit_boxes", lambda *args: fits.append((fit_boxes(*args), args)) or fits[-1][0])
    model = small()
    fit(model, tmp_path)
    assert [penalty for _, (_, _, penalty) in fits] == [1000.0] * 5
    network, crops = model.network.eval(), torch.rand(6, 3, 64, 64)
    pool5, fc7 = network.hidden(crops)
    scores, offsets = network.classify_crops(crops)
    (pool5_scale, fc7_scale), negatives = solved[1]
    assert negatives.cost == 1e-3
    torch.testing.assert_close(scores, negatives.scores(fc7 * fc7_scale).sigmoid())
    for k, (weights, _) in enumerate(fits):
        torch.testing.assert_close(offsets[:, k], pool5 * pool5_scale @ weights[:, :-1].T + weights[:, -1])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    """Return the network of an uninterrupted fit and a folder with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    ends = ModelCheckpoint(folder, "end-{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    model = small()
    data = shapes(proposals_dir=str(folder))  # module fixtures run before the folder of a test exists
    fit(model, folder, callbacks=(saving, ends, ExactResume()), data=data)
    return model.state_dict(), folder


@pytest.mark.parametrize("name", ["step=1", "end-step=2", "step=3", "end-step=4", "step=5"])
def test_resume_within_any_stage_equals_uninterrupted(uninterrupted: tuple, tmp_path: Path, name: str) -> None:
    expected, folder = uninterrupted
    torch.manual_seed(1)
    model = RCNN(num_classes=5, window=64, width=0.05, regions=16)
    fit(
        model,
        tmp_path,
        callbacks=(ExactResume(),),
        ckpt_path=folder / f"{name}.ckpt",
        data=shapes(proposals_dir=str(tmp_path)),
    )
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("part", "call"), [(Examples, 6), (HardNegatives, 6)])
def test_failed_step_is_repeated_on_resume(
    uninterrupted: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: type, call: int
) -> None:
    """Check a failure at the second image of a batch: examples of the first image must not count twice."""
    add, calls = part.add, []

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise KeyError("on purpose")
        add(self, *args, **kwargs)

    monkeypatch.setattr(part, "add", fail)
    saving = ModelCheckpoint(tmp_path, "last", every_n_epochs=10, save_on_exception=True)
    with pytest.raises(KeyError, match="on purpose"):
        fit(small(), tmp_path, callbacks=(saving, ExactResume()))
    model = small()
    fit(model, tmp_path, callbacks=(ExactResume(),), ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(value, uninterrupted[0][key]) for key, value in model.state_dict().items())


def test_resume_with_more_epochs_fine_tunes_further(uninterrupted: tuple, tmp_path: Path) -> None:
    watch, model = StageRecorder(), small()
    fit(model, tmp_path, epochs=6, callbacks=(watch,), ckpt_path=uninterrupted[1] / "end-step=6.ckpt")
    assert watch.ready == [[False, False], [False, True], [True, True]]
    assert not torch.equal(watch.networks[0]["features.0.weight"], uninterrupted[0]["network.features.0.weight"])
    with pytest.raises(UsageError, match="resume with the trainer.max_epochs"):
        fit(small(), tmp_path, epochs=3, ckpt_path=uninterrupted[1] / "end-step=2.ckpt", callbacks=(ForgetExamples(),))


class ForgetExamples(Callback):
    """Delete the collected examples."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: RCNN) -> None:
        pl_module.examples = None


@pytest.mark.parametrize(
    ("options", "epochs", "message"),
    [
        ({}, 1, "trainer.max_epochs must be more than 2, got 1: RCNN takes the last 2"),
        ({"svm": OFF}, 0, "trainer.max_epochs must be more than 1, got 0: RCNN takes the last 1"),
        ({"finetune_epochs": 3}, 3, "trainer.max_epochs must be 5, got 3: model.finetune_epochs is 3.* take 2"),
        ({"finetune_epochs": 3, "svm": OFF}, 5, "trainer.max_epochs must be 4, got 5"),
    ],
)
def test_too_few_epochs_raise(tmp_path: Path, options: dict, epochs: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit(small(**options), tmp_path, epochs=epochs)


def test_early_end_of_fit_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="ended before SVMs and box regression were solved"):
        fit(small(), tmp_path, max_steps=3)


def test_fast_dev_run_works_with_one_epoch(tmp_path: Path) -> None:
    fit(small(optim=Optim(lr_scheduler=WarmupCosine)), tmp_path, fast_dev_run=True)


def test_missing_proposals_raise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="RCNN needs proposals.*data.proposals.*SelectiveSearch"):
        fit(small(), tmp_path, data=shapes(proposals=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 32}, "model.context must be 0 to 31 for a crop of 64, got 32"),
        ({"svm": {"cost": 0.0}}, "model.svm.cost must be above 0, got 0.0"),
        ({"finetune_epochs": -1}, "model.finetune_epochs must be .*got -1"),
        ({"window": 20}, "model.window must be at least 63 for alexnet, got 20"),
    ],
)
def test_invalid_values_raise(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(**options)


# --- rates and detections ---------------------------------------------------------------------------------------------


def test_new_layer_has_tenfold_learning_rate() -> None:
    model = small(optim=Optim(optimizer=partial(CaffeSGD, lr=1e-3, weight_decay=5e-4)))
    groups = {id(p): group for group in model.configure_optimizers().param_groups for p in group["params"]}
    assert len(groups) == len(list(model.network.parameters()))
    for name, parameter in model.network.named_parameters():
        new, bias = name.startswith("classifier.6"), name.endswith("bias")
        assert groups[id(parameter)]["lr"] == pytest.approx(1e-3 * (10 if new else 1) * (2 if bias else 1)), name
        assert groups[id(parameter)]["weight_decay"] == (0 if bias else 5e-4)


def test_warmup_cosine_ends_with_fine_tuning(tmp_path: Path) -> None:
    rates = []
    watch = type(
        "Rates",
        (Callback,),
        {"on_train_batch_start": lambda self, t, *_: rates.append(t.optimizers[0].param_groups[0]["lr"])},
    )
    optimizer = partial(torch.optim.SGD, lr=0.1)
    fit(
        small(optim=Optim(lr_scheduler=WarmupCosine, optimizer=optimizer)),
        tmp_path,
        epochs=4,
        callbacks=(watch(),),
        limit_val_batches=0,
    )
    assert all(rate > 0 for rate in rates[:4])
    assert rates[4] == pytest.approx(0, abs=1e-9)


class FixedNetwork(torch.nn.Module):
    """Network with given scores and offsets."""

    def __init__(self, scores: Tensor, offsets: Tensor | None) -> None:
        super().__init__()
        self.scores, self.offsets = scores, offsets

    def classify_crops(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.scores, self.offsets


def test_boxes_are_regressed_per_class_and_suppressed_at_iou_03() -> None:
    model, image = small().eval(), torch.rand(3, 64, 64)
    boxes = torch.tensor([[0.0, 0, 20, 20], [10.0, 0, 30, 20], [11.0, 0, 31, 20], [40.0, 40, 60, 60]])
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.1]]).expand(4, 5) * torch.tensor([1.0, 0, 0, 0, 0])
    batch = {"image": [image], "proposals": [boxes]}
    model.network = FixedNetwork(scores, None)
    (found,) = model.detect(batch)
    assert torch.equal(found["boxes"], boxes[[0, 2, 3]])  # IoU 1/3 is suppressed, 9/31 is not
    offsets = torch.zeros(4, 5, 4)
    offsets[:, 0] = torch.tensor([0.1, 0, torch.tensor(0.5).log(), 0])  # by a tenth to the right, half as wide
    model.network = FixedNetwork(scores, offsets)
    (found,) = model.detect(batch)
    torch.testing.assert_close(found["boxes"][0], torch.tensor([7.0, 0, 17, 20]))


def test_scores_are_sigmoids_of_svms() -> None:
    network, crops = small().network.eval(), torch.rand(6, 3, 64, 64)
    pool5, fc7 = network.hidden(crops)
    softmax, none = network.classify_crops(crops)
    assert none is None
    torch.testing.assert_close(softmax, network(crops).softmax(1)[:, 1:])
    network.ready.fill_(True)
    torch.nn.init.normal_(network.svm)
    torch.nn.init.normal_(network.regression)
    scores, offsets = network.classify_crops(crops)
    torch.testing.assert_close(scores, (fc7 @ network.svm[:, :-1].T + network.svm[:, -1]).sigmoid())
    torch.testing.assert_close(offsets[2, 3], network.regression[3, :, :-1] @ pool5[2] + network.regression[3, :, -1])


def test_init_from_checkpoint_of_other_classes(tmp_path: Path) -> None:
    first = small(num_classes=3)
    first.network.ready.fill_(True)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "first.ckpt")
    second = small(init_from=str(tmp_path / "first.ckpt"))
    assert torch.equal(first.network.features[0].weight, second.network.features[0].weight)
    assert not second.network.ready.any()
