"""PennFudan: pedestrians, each with its mask."""

from pathlib import Path
from typing import Any, Literal

from darkroom.errors import DataError
from datamodules.annotations import Annotation
from datamodules.download import fetch_folder
from datamodules.images import list_images
from datamodules.instance_folder import InstanceFolder

_URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"


def _check_complete(folder: Path) -> None:
    for name in ("PNGImages", "PedMasks"):
        if (count := len(list_images(folder / name))) != 170:
            raise DataError(f"the archive of {_URL} has {count} pictures in {name}, but should have 170")


class PennFudan(InstanceFolder):
    """Penn-Fudan pedestrians (Wang et al. 2007): 170 photos, with masks of instance ids.

    ``root`` holds ``PennFudanPed/{PNGImages/NAME.png,PedMasks/NAME_mask.png}``.

    Args:
        root: the folder that holds ``PennFudanPed``.
        val_fraction, test_fraction: splits by chance, since there are no official ones.
        download: fetch what is missing.
    """

    def __init__(
        self,
        root: str = "data",
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            images_dir="PNGImages",
            masks_dir="PedMasks",
            class_name="pedestrian",
            root=str(Path(root) / "PennFudanPed"),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            mask_suffix="_mask",
            **kwargs,
        )
        self.folder, self.download = Path(root) / "PennFudanPed", download

    def prepare_data(self) -> None:
        if self.download:
            fetch_folder(_URL, self.folder, inside="PennFudanPed", check=_check_complete)

    def annotations(self, split: Literal["train", "val", "test"]) -> list[Annotation]:
        if not self.folder.is_dir():
            raise DataError(
                f"folder {self.folder} does not exist; data.root must hold PennFudanPed, as unpacked from {_URL}: "
                "--data.download true fetches it"
            )
        return super().annotations(split)
