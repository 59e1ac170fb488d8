"""PennFudan: pedestrians, each with its mask."""

from pathlib import Path
from typing import Any, Literal

from darkroom.datamodules.detection.instance_folder import InstanceFiles
from darkroom.datamodules.io.download import fetch_folder
from darkroom.datamodules.io.read_images import list_images
from darkroom.datamodules.segmentation.image_mask_folder import pair_by_name, seeded_split
from darkroom.errors import DataError, UsageError

URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"


def check_complete(folder: Path) -> None:
    """Looks whether all 170 pictures and masks are there."""
    for name in ("PNGImages", "PedMasks"):
        if (count := len(list_images(folder / name))) != 170:
            raise DataError(f"the archive of {URL} has {count} pictures in {name}, but should have 170")


class PennFudan(InstanceFiles):
    """Penn-Fudan pedestrians (Wang et al. 2007): 170 photos, with masks of instance ids.

    ``root`` holds ``PennFudanPed/{PNGImages/NAME.png,PedMasks/NAME_mask.png}``.

    Args:
        root: the folder that holds ``PennFudanPed``.
        val_fraction, test_fraction: splits by chance, since there are no official ones.
        download: fetch what is missing. No checksum of the archive is published: it is verified by what it holds.
    """

    def __init__(
        self,
        root: str = "data",
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_name="pedestrian", **kwargs)
        self.fractions = {"val": val_fraction, "test": test_fraction}
        if min(self.fractions.values()) < 0 or sum(self.fractions.values()) >= 1:
            raise UsageError(
                f"data.*_fraction {self.fractions} must not be negative and must leave pictures to train on"
            )
        self.folder, self.download = Path(root) / "PennFudanPed", download

    def prepare_data(self) -> None:
        if self.download:
            fetch_folder(URL, self.folder, inside="PennFudanPed", check=check_complete)

    def pairs(self, split: Literal["train", "val", "test"]) -> list[tuple[Path, Path]]:
        if not self.folder.is_dir():
            raise DataError(
                f"folder {self.folder} does not exist; data.root must hold PennFudanPed, as unpacked from {URL}: "
                "--data.download true fetches it"
            )
        pairs = pair_by_name(self.folder / "PNGImages", self.folder / "PedMasks", "_mask")
        return seeded_split(pairs, self.fractions, self.seed)[split]
