"""Unusual sizes, numbers of objects and dtypes: finite losses and complete predictions, or a clear error."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from darkroom.errors import UserError
from darkroom.lightning_modules.adversarial import DCGAN
from darkroom.lightning_modules.autoencoding import VAE, AutoEncoder, ConditionalVAE
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.detection import (
    SSD,
    YOLO,
    FasterRCNN,
    FastRCNN,
    MaskRCNN,
    ObjectDetection,
    SlidingWindow,
)
from darkroom.lightning_modules.diffusion import (
    DDPM,
    CosineSchedule,
    DenoisingUNet,
    EfficientUNet,
    SuperResolution,
    TextToImage,
)
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.segmentation import (
    FCN,
    ConvolutionalizedClassifier,
    DeconvNet,
    DilatedNet,
    EncoderUNet,
    SemanticSegmentation,
    UNet,
)
from darkroom.runtime.error_messages import explain_system_error
from tests.fuzz.strategies import examples

SIDES = (1, 2, 3, 7, 16, 17, 31, 32, 33, 64, 65, 97)
DTYPES = (torch.float32,) * 5 + (torch.float64, torch.bfloat16, torch.float16, torch.uint8)
WORDS = ("a", "red", "circle", "left")
PYRAMID = {"backbone": "resnet18", "width": 0.125, "fpn_channels": 8, "head_channels": 16}
RPN = {"anchor_sizes": [16, 32], "samples": 16, "proposals_before_nms": (64, 32), "proposals": (16, 8)}
FEW = {"min_side": 64, "max_side": 128, "roi_samples": 8, "rpn": RPN}

SEGMENTERS: dict[str, Callable[[int, int], SemanticSegmentation]] = {
    "UNet": lambda channels, classes: UNet(channels, classes, base_channels=2),
    "UNet, valid": lambda channels, classes: UNet(channels, classes, base_channels=2, padding="valid"),
    "EncoderUNet": lambda channels, classes: EncoderUNet(channels, classes, "resnet18", 0.03, base_channels=2),
    "FCN": lambda channels, classes: FCN(channels, classes, "vgg11_bn", width=0.03),
    "FCN on a body": lambda channels, classes: FCN(channels, classes, "mobilenet_v2", width=0.03),
    "DeconvNet": lambda channels, classes: DeconvNet(channels, classes, "vgg11_bn", 0.03, window=32),
    "DilatedNet": lambda channels, classes: DilatedNet(channels, classes, "vgg11_bn", 0.03),
    "DilatedNet on a body": lambda channels, classes: DilatedNet(
        channels, classes, "efficientnet_lite0", 0.03, border="padded"
    ),
    "Classifier": lambda channels, classes: ConvolutionalizedClassifier(
        channels, classes, "vgg11_bn", 0.03, window=32, windows_per_image=2
    ),
}
DETECTORS: dict[str, Callable[[int], ObjectDetection]] = {
    "SlidingWindow": lambda classes: SlidingWindow(classes, channels=4, sides=(14.0, 28.0), window=16),
    "YOLO": lambda classes: YOLO(num_classes=classes, preset="tiny", image_size=64, grid=4, width=0.03),
    "YOLO on a body": lambda classes: YOLO(
        num_classes=classes, preset="tiny", image_size=64, grid=4, width=0.03, backbone="mobilenet_v2"
    ),
    "SSD": lambda classes: SSD(classes, "resnet18", 64, [10, 16, 24, 36, 50], 0.125),
    "FastRCNN": lambda classes: FastRCNN(classes, "vgg11_bn", 0.03, min_side=64, max_side=128),
    "FastRCNN on a body": lambda classes: FastRCNN(classes, "mobilenet_v2", 0.03, min_side=64, max_side=128),
    "FasterRCNN": lambda classes: FasterRCNN(classes, **PYRAMID, **FEW),
    "MaskRCNN": lambda classes: MaskRCNN(classes, **PYRAMID, **FEW, mask_channels=4),
}
Shape = tuple[int, int, int]


def denoiser(shape: Shape, **kwargs: Any) -> DenoisingUNet:
    return DenoisingUNet(
        shape, **{"base_channels": 4, "multipliers": (1, 2), "blocks": 1, "attention": (), "head_channels": 4, **kwargs}
    )


def efficient(shape: Shape) -> EfficientUNet:
    return EfficientUNet(shape, channels=(4, 8), blocks=(1, 1), head_channels=4, text_dim=4)


FAST = {"schedule": CosineSchedule(10), "sampling": Sampling(steps=2)}
TEXT = {"text": lambda: LearnedTextEncoder(WORDS, dim=4, layers=1, heads=1)}
GENERATORS: dict[str, Callable[[Shape, int], Generative]] = {
    "AutoEncoder": lambda shape, classes: AutoEncoder(shape, 3, channels=(4, 8)),
    "AutoEncoder of MLPs": lambda shape, classes: AutoEncoder(shape, 3, "mlp", hidden=(8,)),
    "VAE": lambda shape, classes: VAE(shape, None, 3, channels=(4, 8), iwae_samples=2),
    "ConditionalVAE": lambda shape, classes: ConditionalVAE(shape, classes, 3, channels=(4, 8)),
    "DCGAN": lambda shape, classes: DCGAN(shape, latent_dim=3, base_channels=4, inversion_steps=1),
    "DDPM": lambda shape, classes: DDPM(shape, network=denoiser(shape), bpd_samples=0, **FAST),
    "DDPM of classes": lambda shape, classes: DDPM(
        shape, classes, network=denoiser(shape, num_classes=classes), conditional=True, bpd_samples=0, **FAST
    ),
    "TextToImage": lambda shape, classes: TextToImage(TEXT["text"](), shape, denoiser(shape, text_dim=4), **FAST),
    "SuperResolution": lambda shape, classes: SuperResolution(
        image_shape=shape, network=efficient(shape), text=TEXT["text"](), factor=2, **FAST
    ),
}


def without_trainer(model: Technique) -> Technique:
    """Return the method without a Trainer, with logging disabled."""
    model.log_loss = lambda terms: terms.get("loss")
    return model


def learn(model: Technique, loss: Tensor) -> None:
    """Run a backward pass and assert finite gradients."""
    assert loss.shape == ()
    assert loss.isfinite()
    if loss.requires_grad:
        loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def converted(image: Tensor, dtype: torch.dtype) -> Tensor:
    return (image * 255).to(torch.uint8) if dtype == torch.uint8 else image.to(dtype)


def mask_for(random: Random, shape: tuple[int, ...], classes: int) -> Tensor:
    """Return a mask of noise, one class, a single pixel or ignored pixels."""
    kind = random.choice(("noise", "some ignored", "all ignored", "background", "one pixel"))
    if kind in ("noise", "some ignored"):
        mask = torch.randint(classes, shape)
        return mask.where(torch.rand(shape) < 0.7, 255) if kind == "some ignored" else mask
    mask = torch.full(shape, 255 if kind == "all ignored" else 0)
    if kind == "one pixel":
        mask.view(-1)[random.randrange(mask.numel())] = classes - 1
    return mask


def segment(name: str, random: Random) -> None:
    torch.manual_seed(random.randrange(1000))
    channels, classes = random.choice((1, 3, 3, 4)), random.choice((1, 2, 3, 21, 60))
    shape = random.choice((1, 2, 3)), random.choice(SIDES), random.choice(SIDES)
    image = converted(torch.rand(shape[0], channels, *shape[1:]), random.choice(DTYPES))
    model = without_trainer(SEGMENTERS[name](channels, classes))
    batch = {"image": image, "mask": mask_for(random, shape, classes)}
    learn(model, model.training_step(batch, 0))
    model.eval()
    with torch.inference_mode():
        logits = model.infer(batch)
        assert logits.shape == (shape[0], classes, *shape[1:])
        assert logits.isfinite().all()
        assert model.loss_terms(logits, batch)["loss"].isfinite()
        assert model.predict_step(batch).shape == shape


def boxes_for(random: Random, height: int, width: int) -> Tensor:
    """Return no boxes, tiny boxes, boxes of the whole image, at its border, equal or random ones."""
    boxes = []
    for _ in range(random.choice((0, 0, 1, 2, 5, 30))):
        x, y = sorted(random.uniform(0, width) for _ in range(2)), sorted(random.uniform(0, height) for _ in range(2))
        left, top = random.randrange(width), random.randrange(height)
        boxes.append(
            random.choice(
                (
                    [x[0], y[0], x[1] + 1e-2, y[1] + 1e-2],
                    [left, top, left + 1, top + 1],
                    [0, 0, width, height],
                    [width - 1, height - 1, width, height],
                    [left, 0, left + 0.1, height],
                    boxes[-1] if boxes else [0, 0, 1, 1],
                )
            )
        )
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4)


def detect(name: str, random: Random) -> None:
    torch.manual_seed(random.randrange(1000))
    classes, dtype, count = random.choice((1, 2, 20, 90)), random.choice(DTYPES), random.choice((1, 2, 3))
    batch: dict[str, Any] = {"image": [], "target": [], "proposals": []}
    for number in range(count):
        height, width = random.choice(SIDES), random.choice(SIDES)
        boxes = boxes_for(random, height, width)
        channels = random.choice((3,) * 9 + (1, 4)) if number else 3
        batch["image"].append(converted(torch.rand(channels, height, width), dtype))
        target = {"boxes": boxes, "labels": torch.randint(1, classes + 1, (len(boxes),)), "image_id": number}
        masks = torch.rand(len(boxes), height, width) < random.choice((0.0, 0.5, 1.0))
        batch["target"].append(target | {"masks": masks})
        batch["proposals"].append(boxes_for(random, height, width))
    model = without_trainer(DETECTORS[name](classes))
    learn(model, model.training_step(batch, 0))
    model.eval()
    with torch.inference_mode():
        terms, found = model.evaluate(batch)
        assert all(term.isfinite().all() for term in terms.values())
        assert len(found) == len(model.predict_step(batch)) == count
        for one, image in zip(found, batch["image"], strict=True):
            assert one["boxes"].shape == (len(one["scores"]), 4)
            assert one["boxes"].isfinite().all()
            assert one["scores"].isfinite().all()
            assert (one["boxes"][:, 2:] <= torch.tensor(image.shape[:-3:-1]) + 1e-3).all()
            assert ((one["labels"] >= 1) & (one["labels"] <= classes)).all()


def generate(name: str, random: Random) -> None:
    torch.manual_seed(random.randrange(1000))
    shape = random.choice((1, 3, 4)), random.choice(SIDES), random.choice(SIDES)
    if random.random() < 0.6:
        shape = shape[0], *random.choice(((16, 16), (32, 32), (32, 16), (16, 48), (24, 24), (64, 64)))
    count, classes = random.choice((1, 2, 3, 5)), random.choice((1, 2, 10, 100))
    image = converted(torch.rand(count, *shape) * 2 - 1, random.choice(DTYPES))
    model = without_trainer(GENERATORS[name](shape, classes))
    captions = ["a red circle", "", "left " * 100, "unknown", "a"][:count]
    batch = {"image": image, "label": torch.randint(classes, (count,)), "caption": captions}
    if model.automatic_optimization:
        learn(model, model.training_step(batch, 0))
    model.eval()
    with torch.no_grad():
        model.evaluation_noise = torch.Generator().manual_seed(0)
        values = model.evaluate(batch, "val")
        assert all(value.isfinite().all() for value in values.values())
    prompt = {"seed": torch.arange(count)}
    if name == "SuperResolution":
        prompt |= {"caption": captions, "image": image}
    elif isinstance(model, TextToImage):
        prompt["caption"] = captions
    elif model.num_classes is not None:
        prompt["label"] = batch["label"]
    samples = model.predict_step(prompt)
    assert samples.isfinite().all()
    assert samples.shape[:2] == (count, shape[0])


TRIES: dict[str, tuple[Callable[[str, Random], None], int]] = {
    **dict.fromkeys(SEGMENTERS, (segment, 5)),
    **dict.fromkeys(DETECTORS, (detect, 5)),
    **dict.fromkeys(GENERATORS, (generate, 5)),
}


@pytest.mark.parametrize("name", TRIES)
def test_any_batch_trains_or_raises_user_error(name: str) -> None:
    attempt, count = TRIES[name]

    @examples(count)
    @given(seed=st.integers(0, 2**32))
    def check_seed(seed: int) -> None:
        try:
            attempt(name, Random(seed))
        except UserError:
            pass  # messages are checked in the tests of each method
        except ValueError as error:
            if not explain_system_error(error):
                raise

    check_seed()
