"""PennFudan: pedestrians with masks."""

from pathlib import Path
from typing import Any

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.detection.instance_folder import read_instance_annotations
from darkroom.datamodules.io.download import fetch_folder
from darkroom.datamodules.io.image_files import list_images
from darkroom.datamodules.io.pairing import check_fractions, choose_split, pair_by_name
from darkroom.errors import DataError

URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"


def check_complete(folder: Path) -> None:
    """Raise a DataError unless all 170 images and masks exist."""
    for name in ("PNGImages", "PedMasks"):
        if (count := len(list_images(folder / name))) != 170:
            raise DataError(f"the archive of {URL} has {count} images in {name}; it must have 170")


class PennFudan(DetectionDataModule):
    """Penn-Fudan pedestrians (Wang et al. 2007): 170 photos, with masks of instance ids.

    ``root`` holds ``PennFudanPed/{PNGImages/NAME.png,PedMasks/NAME_mask.png}``.

    Args:
        root: the folder that holds ``PennFudanPed``.
        val_fraction, test_fraction: fractions of the random splits; the data set has no official ones.
        download: fetch missing files. The archive has no published checksum, so its content is verified.
    """

    class_names = ("pedestrian",)

    def __init__(
        self,
        root: str = "data",
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fractions = {"val": val_fraction, "test": test_fraction}
        check_fractions(self.fractions)
        self.folder, self.download = Path(root) / "PennFudanPed", download

    def prepare_data(self) -> None:
        """Download and unpack the archive if ``download`` is set and the folder is missing."""
        if self.download:
            fetch_folder(URL, self.folder, inside="PennFudanPed", check=check_complete)

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Read boxes and masks of a random split.

        Raises:
            DataError: the folder is missing.
        """
        if not self.folder.is_dir():
            raise DataError(
                f"folder {self.folder} does not exist; data.root must hold PennFudanPed, as unpacked from {URL}: "
                "--data.download true fetches it"
            )
        pairs = pair_by_name(self.folder / "PNGImages", self.folder / "PedMasks", "_mask")
        pairs = choose_split(pairs, self.fractions, self.seed, split, "unpack the archive again")
        return read_instance_annotations(self, split, pairs)
