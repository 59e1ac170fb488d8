"""ImageMaskFolder: custom datasets and their possible errors."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from PIL import Image

from darkroom.cli.linking import link_model
from darkroom.datamodules.io.pairing import split_by_hash
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules import segmentation
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes.pictures import dsb2018, image_mask_folder


class TestImageMaskFolder(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ImageMaskFolder:
        image_mask_folder(tmp_path)
        return ImageMaskFolder(root=str(tmp_path), crop=32, val_fraction=0.2, test_fraction=0.2, **kwargs)


class TestInstanceIdsOfGreyImages(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ImageMaskFolder:
        dsb2018(tmp_path / "dsb")
        folders = {"images_dir": "train/images", "masks_dir": "train/labels"}
        folders |= {"test_images_dir": "test/images", "test_masks_dir": "test/labels"}
        return ImageMaskFolder(
            root=str(tmp_path / "dsb"),
            crop=48,
            val_fraction=0.3,
            mask_values="nonzero",
            channels=1,
            **folders,
            **kwargs,
        )


def load(root: Path, **kwargs: Any) -> list[dict[str, Any]]:
    data = ImageMaskFolder(root=str(root), val_fraction=0, test_fraction=0, **kwargs)
    dataset = data.dataset("train")
    return [dataset[index] for index in range(len(dataset))]


def test_padding_is_ignored(tmp_path: Path) -> None:
    image_mask_folder(tmp_path, size=(20, 24))
    data = ImageMaskFolder(root=str(tmp_path), crop=32, num_workers=0, batch_size=2, val_fraction=0.2)
    data.setup("fit")
    mask = next(iter(data.train_dataloader()))["mask"]
    assert ((mask == 255).sum((1, 2)) == 32 * 32 - 20 * 24).all()


def test_max_side_scales_image_and_mask(tmp_path: Path) -> None:
    image_mask_folder(tmp_path, size=(40, 80))
    sample = load(tmp_path, max_side=40)[0]
    assert sample["image"].shape == (3, 20, 40)
    assert sample["mask"].shape == (20, 40)
    assert set(sample["mask"].unique().tolist()) <= {0, 1}


def test_split_is_stable_when_images_are_added() -> None:
    def split(count: int) -> dict[str, list]:
        return split_by_hash([(Path(f"{i}.png"), Path(f"{i}.png")) for i in range(count)], {"val": 0.2, "test": 0.1}, 0)

    before, after = split(100), split(101)
    assert {name: len(pairs) for name, pairs in before.items()} == {"val": 20, "test": 10, "train": 70}
    assert len(set(before["val"]) & set(after["val"])) >= 18


def save_pair(root: Path, image: Image.Image, mask: Image.Image | None = None, ending: str = ".png") -> None:
    for name, source in (("images", image), ("masks", mask or Image.new("L", image.size))):
        (root / name).mkdir(parents=True, exist_ok=True)
        source.save(root / name / f"a{ending if name == 'images' else '.png'}")


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "16 bit", "16 bit TIFF"])
def test_every_image_mode_becomes_uint8_rgb(tmp_path: Path, mode: str) -> None:
    ending = ".png"
    if mode.startswith("16 bit"):
        source = Image.fromarray(GREY.astype(np.uint16) * 257)
        ending = ".tif" if "TIFF" in mode else ".png"
    else:
        source = Image.fromarray(GREY).convert(mode)
        ending = ".tif" if mode == "CMYK" else ".png"
    save_pair(tmp_path, source, ending=ending)
    image = load(tmp_path)[0]["image"]
    assert image.shape == (3, 16, 16)
    assert image.dtype == torch.uint8
    if mode not in ("1", "CMYK"):
        assert torch.equal(image, torch.from_numpy(GREY).expand(3, -1, -1))


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    save_pair(tmp_path, Image.new("RGBA", (8, 8), (200, 100, 50, 0)))
    assert load(tmp_path)[0]["image"].max() == 0


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    photo = Image.new("RGB", (20, 10))
    exif = photo.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    (tmp_path / "images").mkdir()
    photo.save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "masks").mkdir()
    Image.new("L", (10, 20)).save(tmp_path / "masks" / "a.png")
    assert load(tmp_path)[0]["image"].shape == (3, 20, 10)


@pytest.mark.parametrize(("values", "expected"), [("index", {0, 1, 255}), ("nonzero", {0, 1})])
def test_mask_values_select_index_or_nonzero(tmp_path: Path, values: str, expected: set[int]) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[0], mask[1] = 1, 255
    save_pair(tmp_path, Image.new("RGB", (8, 8)), Image.fromarray(mask))
    assert set(load(tmp_path, mask_values=values)[0]["mask"].unique().tolist()) == expected


def test_sixteen_bit_instance_ids_are_read(tmp_path: Path) -> None:
    ids = np.zeros((8, 8), np.uint16)
    ids[2:4] = 256  # a multiple of 256 must not look like background
    save_pair(tmp_path, Image.new("RGB", (8, 8)), Image.fromarray(ids))
    assert load(tmp_path, mask_values="nonzero")[0]["mask"].sum() == 16


@pytest.mark.parametrize("values", ["index", "nonzero"])
def test_connected_components_become_instances_without_ids(tmp_path: Path, values: str) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[4:6, 4:6] = mask[7] = 1  # the first two touch at a corner
    mask[5, 5] = 2 if values == "index" else 1
    save_pair(tmp_path, Image.new("RGB", (8, 8)), Image.fromarray(mask * (255 if values == "nonzero" else 1)))
    names = ["background", "a", "b"] if values == "index" else ["background", "a"]
    instances = load(tmp_path, mask_values=values, class_names=names, borders=True)[0]["instances"]
    assert instances.dtype == torch.int32
    assert instances[0, 0] == instances[1, 1]
    assert len(set(instances.unique().tolist())) == 1 + (4 if values == "index" else 3)
    assert torch.equal(instances > 0, torch.from_numpy(mask > 0))


@pytest.mark.parametrize("background", [True, False])
def test_file_ids_become_instances(tmp_path: Path, background: bool) -> None:
    ids = np.full((8, 8), 0 if background else 256, np.uint16)
    ids[2], ids[3], ids[6] = 1000, 65535, 1000  # touching, and one in two pieces
    save_pair(tmp_path, Image.new("RGB", (8, 8)), Image.fromarray(ids))
    instances = load(tmp_path, mask_values="nonzero", borders=True)[0]["instances"].numpy()
    assert ((instances > 0) == (ids > 0)).all()
    assert len(set(zip(ids.flat, instances.flat, strict=True))) == 3
    assert instances.max() <= 3  # renumbered: memory does not grow with the largest id
    assert (instances[2] == instances[6]).all()


def test_ignored_pixels_belong_to_no_instance(tmp_path: Path) -> None:
    mask = np.ones((8, 8), np.uint8)
    mask[3] = 255
    save_pair(tmp_path, Image.new("RGB", (8, 8)), Image.fromarray(mask))
    assert load(tmp_path, crops="objects")[0]["instances"].tolist() == [[1] * 8] * 3 + [[0] * 8] + [[2] * 8] * 4


@pytest.mark.parametrize("model", ["UNet", "FCN", "DeconvNet", "DilatedNet", "ConvolutionalizedClassifier"])
def test_models_take_the_channels_of_grey_images(model: str) -> None:
    arguments = Namespace(
        class_path=f"darkroom.lightning_modules.segmentation.{model}", init_args=Namespace(in_channels=None)
    )
    link_model(ImageMaskFolder(channels=1), arguments)
    assert arguments.init_args.in_channels == 1
    kind = getattr(segmentation, model)
    assert inspect.signature(kind).parameters["in_channels"].default is None


def test_grey_images_train_from_command_line(darkroom: Callable, tmp_path: Path) -> None:
    dsb2018(tmp_path / "dsb")
    outcome = darkroom(
        *("fit", "--model", "UNet", "--model.base_channels", 4, "--data", "ImageMaskFolder", "--data.channels", 1),
        *("--data.root", tmp_path / "dsb", "--data.images_dir", "train/images", "--data.crop", 32),
        *("--data.masks_dir", "train/labels", "--data.mask_values", "nonzero", "--data.val_fraction", 0.4),
        *("--trainer.max_steps", 1, "--trainer.accelerator", "cpu"),
    )
    assert outcome.code == 0


def test_samples_contain_original_size(tmp_path: Path) -> None:
    image_mask_folder(tmp_path, size=(40, 80))
    assert load(tmp_path, max_side=40)[0]["size"].tolist() == [40, 80]


def test_gif_masks_of_carvana_are_read(tmp_path: Path) -> None:
    """Carvana names them NAME_mask.gif; their values are 0 and 1."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/car_01.jpg")
    binary = np.zeros((8, 8), np.uint8)
    binary[2:] = 255
    Image.fromarray(binary).convert("1").save(tmp_path / "masks/car_01_mask.gif")
    assert load(tmp_path, mask_suffix="_mask")[0]["mask"].sum() == 48


def test_subfolders_pair_by_relative_path(tmp_path: Path) -> None:
    for number, name in enumerate(("scene1/0", "scene1/1", "deep/scene2/0")):
        for kind, value in (("images", 100), ("masks", number % 2)):
            path = tmp_path / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), value).save(path)
    (tmp_path / "images/.ipynb_checkpoints").mkdir()
    (tmp_path / "images/.ipynb_checkpoints/0.png").write_bytes(b"")
    samples = load(tmp_path, channels=1)
    assert [Path(sample["path"]).relative_to(tmp_path / "images").as_posix() for sample in samples] == [
        "deep/scene2/0.png",
        "scene1/0.png",
        "scene1/1.png",
    ]
    assert [sample["mask"].max() for sample in samples] == [0, 0, 1]


def test_mask_in_another_subfolder_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "images/a/0.png", tmp_path / "masks/b/0.png"):
        path.parent.mkdir(parents=True)
        Image.new("L", (8, 8)).save(path)
    with pytest.raises(DataError, match=r"images/a/0\.png has no mask .*masks/a/0\.\*"):
        load(tmp_path)


@pytest.mark.parametrize("masks_dir", ["masks", "."])
def test_masks_may_lie_in_the_folder_of_the_images(tmp_path: Path, masks_dir: str) -> None:
    (tmp_path / masks_dir).mkdir(exist_ok=True)
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        Image.new("L", (8, 8), 1).save(tmp_path / masks_dir / f"{name}_mask.png")
    samples = load(tmp_path, images_dir=".", masks_dir=masks_dir, mask_suffix="_mask")
    assert [(Path(sample["path"]).name, int(sample["mask"].min())) for sample in samples] == [
        ("a.png", 1),
        ("b.png", 1),
    ]


@pytest.mark.parametrize("exif", [None, "transpose", "ignore"])
@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_image_and_mask_of_one_orientation_agree(tmp_path: Path, exif: Any, orientation: int, ending: str) -> None:
    """A tool that copies the EXIF data of a photo to its mask."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        tags = Image.Exif()
        tags[274] = orientation
        pixels = np.zeros((8, 12), np.uint8)
        pixels[:2] = 1 if name == "masks" else 255
        Image.fromarray(pixels).save(tmp_path / f"{name}/a.{ending}", exif=tags)
    sample = load(tmp_path, exif=exif, channels=1)[0]
    assert sample["mask"].shape == ((12, 8) if orientation == 6 and exif != "ignore" else (8, 12))
    assert torch.equal(sample["image"][0] > 127, sample["mask"] == 1)


@pytest.mark.parametrize("what", ["images", "masks"])
def test_pixel_limit_holds_for_images_and_masks(tmp_path: Path, what: str) -> None:
    save_pair(tmp_path, Image.new("RGB", (8, 8)))
    Image.new("L", (20, 8)).save(tmp_path / what / "a.png")
    with pytest.raises(DataError, match=rf"{what}/a\.png has 20 x 8 = 160 pixels, more than data\.max_pixels 100"):
        load(tmp_path, max_pixels=100)


class TestInvalidData:
    """Invalid data raise one error that names the file."""

    def test_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="nowhere/images does not exist"):
            load(tmp_path / "nowhere")

    def test_image_without_mask_is_named(self, tmp_path: Path) -> None:
        image_mask_folder(tmp_path)
        (tmp_path / "masks/photo03.png").unlink()
        with pytest.raises(DataError, match=r"photo03\.png has no mask"):
            load(tmp_path)

    def test_mask_without_image_is_named(self, tmp_path: Path) -> None:
        image_mask_folder(tmp_path)
        (tmp_path / "images/photo03.png").unlink()
        with pytest.raises(DataError, match=r"photo03\.png has no image"):
            load(tmp_path)

    def test_images_with_same_stem_raise(self, tmp_path: Path) -> None:
        image_mask_folder(tmp_path)
        Image.new("RGB", (48, 40)).save(tmp_path / "images/photo03.jpg")
        with pytest.raises(DataError, match="the same name"):
            load(tmp_path)

    def test_mask_value_beyond_classes_is_named(self, tmp_path: Path) -> None:
        image_mask_folder(tmp_path, classes=4)
        with pytest.raises(DataError, match=r"photo00\.png has the value [23], but there are 2 classes"):
            load(tmp_path)

    def test_mask_of_other_size_raises(self, tmp_path: Path) -> None:
        save_pair(tmp_path, Image.new("RGB", (8, 8)), Image.new("L", (8, 9)))
        with pytest.raises(DataError, match=r"8 x 8 pixels, but its mask .* has 8 x 9"):
            load(tmp_path)

    def test_truncated_jpeg_is_named(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        save_pair(tmp_path, Image.fromarray(noise), ending=".jpg")
        path = tmp_path / "images/a.jpg"
        path.write_bytes(path.read_bytes()[:1500])
        with pytest.raises(DataError, match=r"a\.jpg cannot be read as an image"):
            load(tmp_path)

    def test_non_image_file_is_named(self, tmp_path: Path) -> None:
        save_pair(tmp_path, Image.new("RGB", (8, 8)))
        (tmp_path / "images/a.png").write_text("hello")
        with pytest.raises(DataError, match=r"a\.png cannot be read as an image"):
            load(tmp_path)

    def test_floating_point_image_raises(self, tmp_path: Path) -> None:
        save_pair(tmp_path, Image.fromarray(np.zeros((8, 8), np.float32)), ending=".tif")
        with pytest.raises(DataError, match="floating-point"):
            load(tmp_path)

    def test_colour_mask_raises(self, tmp_path: Path) -> None:
        save_pair(tmp_path, Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (1, 2, 3)))
        with pytest.raises(DataError, match=r"a\.png is a colour image, with the colour \[1, 2, 3\]"):
            load(tmp_path)

    def test_lossy_mask_raises(self, tmp_path: Path) -> None:
        save_pair(tmp_path, Image.new("RGB", (8, 8)))
        (tmp_path / "masks/a.png").unlink()
        Image.new("L", (8, 8)).save(tmp_path / "masks/a.jpg")
        with pytest.raises(DataError, match="lossy JPEG"):
            load(tmp_path)

    @pytest.mark.parametrize(
        ("count", "remedy"), [(2, "add images: 3 splits need at least 3"), (4, "set it to 0.25"), (5, "set it to 0.2")]
    )
    def test_empty_split_names_its_fraction(self, tmp_path: Path, count: int, remedy: str) -> None:
        image_mask_folder(tmp_path, count=count)
        data = ImageMaskFolder(root=str(tmp_path))
        message = (
            f"data.val_fraction 0.1 leaves none of {count} images for val; {remedy}.*, such as data.val_images_dir"
        )
        with pytest.raises(UsageError, match=message):
            data.setup("fit")

    @pytest.mark.parametrize("count", [4, 5])
    def test_advised_fraction_fills_every_split(self, tmp_path: Path, count: int) -> None:
        image_mask_folder(tmp_path, count=count)
        data = ImageMaskFolder(root=str(tmp_path), val_fraction=1 / count, test_fraction=1 / count)
        assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [count - 2, 1, 1]

    def test_mixed_sizes_in_a_batch_raise(self, tmp_path: Path) -> None:
        dsb2018(tmp_path / "dsb")
        folders = {"images_dir": "train/images", "masks_dir": "train/labels", "mask_values": "nonzero"}
        data = ImageMaskFolder(
            root=str(tmp_path / "dsb"), eval_batch_size=4, val_fraction=0.7, test_fraction=0, num_workers=0, **folders
        )
        data.setup("validate")
        with pytest.raises(DataError, match="eval_batch_size to 1"):
            list(data.val_dataloader())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"class_names": ["only"]},
            {"mask_values": "nonzero", "class_names": ["a", "b", "c"]},
            {"val_images_dir": "val"},
            {"val_fraction": 0.6, "test_fraction": 0.6},
            {"mask_values": "nonzero", "ignore_values": [7]},
            {"mean": [0.5]},
            {"crop": 4},
            {"batch_size": 0},
            {"std": (0, 1, 1)},
        ],
    )
    def test_contradicting_arguments_raise(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="data."):
            ImageMaskFolder(**wrong)
