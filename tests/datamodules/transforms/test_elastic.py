"""ElasticGrid: size of displacements, and consistency of image, mask and instances."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from darkroom.datamodules.loading import as_tv_tensors, keyed_rng
from darkroom.datamodules.transforms.elastic import ElasticGrid
from darkroom.errors import UsageError


def blocks(channels: int = 3, height: int = 96, width: int = 128) -> dict[str, Any]:
    """Return blocks of 16 pixels whose class, instance and grey value agree."""
    y, x = torch.arange(height)[:, None] // 16, torch.arange(width) // 16
    mask = ((3 * y + x) % 5).to(torch.uint8)
    image = (mask * 50).expand(channels, -1, -1).contiguous()
    return {"image": image, "mask": mask, "instances": mask.int() * 1000, "size": torch.tensor([height, width])}


def bend(sample: dict[str, Any], seed: int = 0, **kwargs: Any) -> dict[str, Any]:
    with keyed_rng(seed):
        return ElasticGrid(**kwargs)(as_tv_tensors(sample))


@pytest.mark.parametrize("still", [{"std": 0.0}, {"p": 0.0}])
@pytest.mark.parametrize("channels", [1, 3])
def test_zero_displacement_is_identity(still: dict[str, float], channels: int) -> None:
    sample = blocks(channels)
    sample["image"] = torch.randint(0, 256, sample["image"].shape, dtype=torch.uint8)
    bent = bend(sample, **still)
    assert bent.keys() == sample.keys()
    assert all(torch.equal(bent[key], sample[key]) for key in sample)
    assert all(bent[key].dtype == sample[key].dtype for key in sample)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_mask_and_instances_are_deformed_together(channels: int) -> None:
    sample = blocks(channels)
    bent = bend(sample)
    assert bent["image"].shape == sample["image"].shape
    assert (bent["mask"] != sample["mask"]).float().mean() > 0.1
    inside = bent["mask"] != 255
    assert torch.equal(bent["instances"], torch.where(inside, bent["mask"].int() * 1000, 0))
    grey_class = (bent["image"].float() / 50).round()
    for channel in grey_class:
        assert (channel == bent["mask"])[inside].float().mean() > 0.9  # edges are blurred


def test_displacement_has_stated_std() -> None:
    sample = as_tv_tensors(blocks())
    moves = torch.cat([ElasticGrid(std=6.0).make_params([sample["image"]])["displacement"] for _ in range(500)])
    assert moves.shape == (500, 96, 128, 2)
    pixels = moves * torch.tensor([128, 96]) / 2
    for y, x in ((0, 0), (0, 127), (95, 0), (95, 127)):  # these pixels are points of the grid
        torch.testing.assert_close(pixels[:, y, x].mean(0), torch.zeros(2), atol=1.1, rtol=0)
        torch.testing.assert_close(pixels[:, y, x].std(0), torch.full((2,), 6.0), atol=0.8, rtol=0)
    steps = pixels.diff(dim=1).abs().max()
    assert steps < 2  # neighbours have similar displacements


def test_integer_shift_is_exact() -> None:
    sample = as_tv_tensors(blocks())
    displacement = torch.zeros(1, 96, 128, 2)
    displacement[..., 0], displacement[..., 1] = 2 * 5 / 128, -2 * 3 / 96  # sampled 5 pixels right and 3 above
    bent = {key: ElasticGrid().transform(sample[key], {"displacement": displacement}) for key in ("image", "mask")}
    assert torch.equal(bent["mask"][3:, :-5], sample["mask"][:-3, 5:])
    assert torch.equal(bent["image"][:, 3:, :-5], sample["image"][:, :-3, 5:])
    assert (bent["mask"][:3] == 255).all()
    assert torch.equal(bent["image"][:, 3:, -5:], sample["image"][:, :-3, -5:].flip(2))  # mirrored


def test_displacement_depends_only_on_rng() -> None:
    a, b, c = (bend(blocks(), seed)["image"] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_probability_is_respected() -> None:
    plain = blocks(height=32, width=32)
    bent = [not torch.equal(bend(plain, seed, p=0.5)["image"], plain["image"]) for seed in range(100)]
    assert 30 < sum(bent) < 70


def test_float_images_stay_float() -> None:
    image = tv_tensors.Image(torch.rand(3, 32, 32))
    assert ElasticGrid()(image).dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"grid": 1}, {"std": -1.0}, {"p": 1.5}])
def test_out_of_range_arguments_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"ElasticGrid.*{next(iter(wrong))}.*got"):
        ElasticGrid(**wrong)


def test_elastic_grid_trains_from_command_line(darkroom: Callable, tiny: list[str]) -> None:
    outcome = darkroom(
        *(
            "fit",
            *tiny,
            "--data.augment",
            '[{"class_path": "darkroom.datamodules.transforms.elastic.ElasticGrid", "init_args": {"std": 4}}]',
        ),
        *("--data.borders", "true", "--data.crops", "windows"),
    )
    assert outcome.code == 0, outcome.err
