"""Images with more than 8 bits per channel: one scale for the whole data set."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.datamodules.detection.instance_folder import InstanceFolder
from darkroom.datamodules.images.image_folder import ImageFolder
from darkroom.datamodules.io.pixel_scale import PixelScale
from darkroom.datamodules.io.read_images import ImageReader
from darkroom.errors import DataError, UsageError

SIZE = 8


def save(path: Path, largest: float, dtype: type = np.uint16) -> Path:
    """An image whose left half has the value 0 and whose right half has ``largest``."""
    pixels = np.zeros((SIZE, SIZE), dtype)
    pixels[:, SIZE // 2 :] = largest
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def reader(paths: list[Path], max_value: float | None = None) -> ImageReader:
    scale = PixelScale(max_value)
    scale.decide(paths, "train")
    return ImageReader(1, scale)


@pytest.mark.parametrize(
    ("ending", "dtype", "largest", "white"),
    [
        ("png", np.uint16, 4095, 4095),
        ("tif", np.uint16, 4000, 4095),
        ("png", np.uint16, 65535, 65535),
        ("png", np.uint16, 20000, 65535),
        ("tif", np.int32, 254, 255),
        ("tif", np.int32, 1023, 1023),
        ("tif", np.int32, 100_000, 2**18 - 1),
    ],
)
def test_scale_follows_the_largest_value(tmp_path: Path, ending: str, dtype: type, largest: int, white: int) -> None:
    path = save(tmp_path / f"a.{ending}", largest, dtype)
    assert np.asarray(reader([path])(path)).max() == round(largest / white * 255)


def test_dark_image_keeps_its_brightness_beside_bright_ones(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{value}.png", value) for value in (3000, 4095, 2100)]
    read = reader(paths)
    assert [np.asarray(read(path)).max() for path in paths] == [187, 255, 131]


def test_files_of_two_bit_depths_are_named_once(tmp_path: Path) -> None:
    dark, bright = save(tmp_path / "a.png", 4095), save(tmp_path / "b.png", 65535)
    scale = PixelScale()
    with pytest.warns(UserWarning, match=r"a.png has values up to 4095, .*b.png up to 65535") as caught:
        scale.decide([dark, bright], "train")
    scale.decide([dark], "val")  # warnings are errors here
    assert len(caught) == 1
    assert "Set data.max_value to 65535" in str(caught[0].message)


def test_stated_value_is_white_and_larger_ones_are_clipped(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 5000)
    assert np.asarray(reader([path], 4095)(path)).max() == 255
    assert np.asarray(reader([path], 10_000)(path)).max() == 128


def test_value_above_the_scale_that_was_found_raises(tmp_path: Path) -> None:
    read = reader([save(tmp_path / "a.png", 4000)])
    with pytest.raises(DataError, match=r"b.png has the value 60000, .* at most 4095; set data.max_value to 65535"):
        read(save(tmp_path / "b.png", 60_000))


@pytest.mark.parametrize("value", [-5, np.nan, np.inf])
def test_negative_and_infinite_values_raise(tmp_path: Path, value: float) -> None:
    path = save(tmp_path / "a.tif", value, np.int32 if value == -5 else np.float32)
    with pytest.raises(DataError, match=r"a\.tif has (the value -5|pixels that are not finite)"):
        reader([path], 1.0)(path)


def test_floating_point_images_need_the_option(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", 0.5, np.float32)
    with pytest.raises(DataError, match=r"a\.tif has floating-point pixels of unknown range; set data\.max_value"):
        reader([path])(path)
    assert np.asarray(reader([path], 1.0)(path)).max() == 128


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_dark_colours_of_16_bits_are_refused(tmp_path: Path, ending: str) -> None:
    """Pillow returns the upper 8 bits, which hold almost nothing of an image of 12 bits."""
    cv2 = pytest.importorskip("cv2")
    paths = {}
    for name, largest in (("dark", 4095), ("bright", 65535)):
        paths[name] = tmp_path / f"{name}.{ending}"
        cv2.imwrite(str(paths[name]), np.full((SIZE, SIZE, 3), largest, np.uint16))
    assert np.asarray(reader([paths["bright"]])(paths["bright"])).max() == 255
    with pytest.raises(DataError, match=r"dark\.(png|tif) has 16 bits per colour channel"):
        reader([paths["dark"]])(paths["dark"])


@pytest.mark.parametrize("wrong", [0, -1.0, float("inf"), float("nan")])
def test_invalid_option_raises(wrong: float) -> None:
    with pytest.raises(UsageError, match=r"data\.max_value must be a finite number above 0"):
        ImageFolder(max_value=wrong)


def test_all_splits_have_the_scale_of_the_training(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / f"train/{index}.png", 60_000)
        save(tmp_path / f"val/{index}.png", 1000)
    data = ImageFolder(root=str(tmp_path), size=SIZE, channels=1, num_workers=0, test_fraction=0)
    with pytest.warns(UserWarning, match="as if their bit depths differed"):
        data.setup("fit")
    assert data.dataset("val")[0]["image"].max() == 4
    assert data.dataset("train")[0]["image"].max() == 233


def test_detection_has_one_scale(tmp_path: Path) -> None:
    for index, value in enumerate((1000, 4000)):
        save(tmp_path / f"images/{index}.png", value)
        save(tmp_path / f"masks/{index}.png", 1, np.uint8)
    data = InstanceFolder(root=str(tmp_path), val_fraction=0, test_fraction=0)
    with pytest.warns(UserWarning, match="as if their bit depths differed"):
        dataset = data.dataset("train")
    assert [int(dataset[index]["image"].max()) for index in range(2)] == [62, 249]


def test_checkpoint_carries_the_scale_to_prediction(tmp_path: Path) -> None:
    for index in range(8):
        save(tmp_path / f"images/{index}.png", 60_000)
    save(tmp_path / "photos/deep/a.png", 4000)
    trained = ImageFolder(root=str(tmp_path / "images"), size=SIZE, channels=1, val_fraction=0.2, test_fraction=0)
    trained.setup("fit")
    fresh = ImageFolder(size=SIZE, channels=1, predict=str(tmp_path / "photos"), num_workers=0)
    fresh.setup("predict")
    fresh.load_state_dict(pickle.loads(pickle.dumps(trained.state_dict())))
    assert next(iter(fresh.predict_dataloader()))["image"].max() == round(4000 / 257)


def test_stated_scale_is_that_of_the_checkpoint() -> None:
    trained, other = PixelScale(4095), PixelScale(1023)
    fresh = PixelScale()
    fresh.load_state_dict(trained.state_dict())
    assert fresh.max_value == 4095
    with pytest.raises(UsageError, match="data.max_value is 1023, but .* trained with 4095; set it to 4095"):
        other.load_state_dict(trained.state_dict())


def test_eight_bit_images_are_unchanged_and_leave_no_state(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 200, np.uint8)
    data = ImageFolder(root=str(tmp_path), size=SIZE, channels=1, val_fraction=0, test_fraction=0)
    assert torch.equal(data.dataset("train")[0]["image"].unique(), torch.tensor([0, 200], dtype=torch.uint8))
    assert data.state_dict() == {}
    assert path.is_file()
