"""OxfordPets: trimaps, the seeded validation split and the download."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from darkroom.datamodules.segmentation.oxford_pets import OxfordPets
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes.pictures import oxford_pets


class TestOxfordPets(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> OxfordPets:
        return OxfordPets(root=str(oxford_pets(tmp_path / "data")), crop=32, **kwargs)

    def test_val_split_depends_on_seed(self, data: OxfordPets) -> None:
        names = {split: {path.stem for path in data.dataset(split).paths} for split in ("train", "val", "test")}
        assert {split: len(found) for split, found in names.items()} == {"train": 8, "val": 1, "test": 3}
        assert names["train"] | names["val"] == {f"Abyssinian_{index}" for index in range(9)}
        others = {path for seed in range(9) for path in OxfordPets(root=str(data.root), seed=seed).dataset("val").paths}
        assert len(others) > 1


@pytest.mark.parametrize(("border", "value"), [("ignore", 255), ("pet", 1), ("background", 0)])
def test_trimap_is_mapped_to_pet_background_and_border(tmp_path: Path, border: str, value: int) -> None:
    data = OxfordPets(root=str(oxford_pets(tmp_path)), border=border)
    sample, trimap = data.dataset("test")[0], Image.open(data.dataset("test").masks[0])
    assert torch.equal(sample["mask"], torch.tensor([0, 1, 0, value], dtype=torch.uint8)[np.array(trimap).astype(int)])


def test_invalid_trimap_value_is_named(tmp_path: Path) -> None:
    data = OxfordPets(root=str(oxford_pets(tmp_path)))
    dataset = data.dataset("test")
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(dataset.masks[0])
    with pytest.raises(DataError, match=r"Abyssinian_\d+.png has the value 7; a trimap must have 1"):
        dataset[0]


def test_val_fraction_of_zero_raises() -> None:
    with pytest.raises(UsageError, match="data.val_fraction must be between 0 and 1, got 0.0"):
        OxfordPets(val_fraction=0.0)


@pytest.mark.parametrize("missing", ["images", "annotations"])
def test_missing_folder_names_download_option(tmp_path: Path, missing: str) -> None:
    shutil.rmtree(oxford_pets(tmp_path) / missing)
    with pytest.raises(DataError, match=f"{missing} does not exist.*--data.download true"):
        OxfordPets(root=str(tmp_path)).setup("fit")


def test_download_verifies_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the archives at the place of the download, without network access."""
    source, resources = oxford_pets(tmp_path / "source"), []
    for url, _ in OxfordIIITPet._RESOURCES:
        name = Path(url).name.removesuffix(".tar.gz")
        packed = Path(shutil.make_archive(str(tmp_path / "data" / name), "gztar", source, name))
        resources.append((url, hashlib.md5(packed.read_bytes()).hexdigest()))
    data = OxfordPets(root=str(tmp_path / "data"), download=True)
    with pytest.raises(DataError, match="images.tar.gz has the md5"):
        data.prepare_data()
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", tuple(resources))
    data.prepare_data()
    assert len(data.dataset("test")) == 3
