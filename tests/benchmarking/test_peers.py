"""Methods of other libraries, as `same_budget` trains them: their loss trains, and their samples are those of a seed."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.speed.harness import without_trainer

SHAPE = (1, 8, 8)


def skip_without(package: str) -> None:
    """Skip the test where a package is not installed. Importing it may need more: imagen-pytorch looks for a T5."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def public_ddpm() -> Any:
    skip_without("denoising_diffusion_pytorch")
    from benchmarks.results.peers.public_diffusion import PublicDDPM

    return PublicDDPM(SHAPE, dim=8, multipliers=(1, 2), sampling_steps=2)


def public_unet2d() -> Any:
    skip_without("diffusers")
    from benchmarks.results.peers.public_unet2d import PublicUNet2D

    return PublicUNet2D(SHAPE, channels=(8, 16), groups=4, sampling_steps=2)


def public_imagen() -> Any:
    skip_without("imagen_pytorch")
    from benchmarks.results.peers.public_imagen import PublicImagen
    from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder

    text = LearnedTextEncoder(["a", "red", "circle"], dim=16, layers=1, heads=2)
    return PublicImagen(text, SHAPE, dim=8, sampling_steps=2)


def sample(model: Any, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if "caption" in BATCHES[type(model).__name__]:
        return model.sample(["a red circle"] * 3, generator=generator)
    return model.sample(3, generator=generator)


IMAGES = torch.linspace(-1, 1, 4 * 64).view(4, *SHAPE)
BATCHES = {
    "PublicDDPM": {"image": IMAGES},
    "PublicUNet2D": {"image": IMAGES},
    "PublicImagen": {"image": IMAGES, "caption": ["a red circle"] * 4},
}


@pytest.mark.slow  # imports the libraries
@pytest.mark.parametrize("build", [public_ddpm, public_unet2d, public_imagen])
def test_peer_trains_and_samples(build: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = without_trainer(build())
    loss = model.training_step(BATCHES[type(model).__name__], 0)
    loss.backward()
    trained = [p for p in model.network.parameters() if p.requires_grad]
    assert loss.isfinite()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    model.on_train_batch_end()
    first, again, other = (sample(model, seed) for seed in (0, 0, 1))
    assert first.shape == (3, *SHAPE)
    assert first.isfinite().all()
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.slow
@pytest.mark.parametrize("build", [public_ddpm, public_unet2d, public_imagen])
def test_weights_of_a_peer_are_in_its_checkpoint(build: Callable[[], Any]) -> None:
    model = without_trainer(build())
    model.training_step(BATCHES[type(model).__name__], 0)
    first = sample(model, 0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)
    assert not sample(model, 0).equal(first)
    other = build()
    other.load_state_dict(model.state_dict())
    assert sample(other, 0).equal(sample(model, 0))
