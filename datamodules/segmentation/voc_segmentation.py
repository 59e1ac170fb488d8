"""VOCSegmentation: PASCAL VOC 2007-2012, or any data in its layout; optionally with SBD's masks to train on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.io.download import fetch_folder
from darkroom.datamodules.io.pairing import pair_by_list
from darkroom.datamodules.io.read_mask import read_mask
from darkroom.datamodules.segmentation.base import SegmentationFiles
from darkroom.errors import DataError, UsageError

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SBD = "benchmark_RELEASE"
_ARCHIVES = {year: archive for year, archive in DATASET_YEAR_DICT.items() if year.isdigit()}


def read_voc_or_sbd_mask(path: Path) -> Image.Image:
    """Read an index mask, or SBD's ``.mat`` with the same values in ``GTcls.Segmentation``."""
    if path.suffix != ".mat":
        return read_mask(path)
    from scipy.io import loadmat  # 40 modules, which only SBD needs

    try:
        return Image.fromarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # scipy raises many types
        raise DataError(f"{path} cannot be read as a mask of SBD ({error}); replace it") from error


class VOCSegmentation(SegmentationFiles):
    """Segmentation in PASCAL VOC layout (Everingham et al. 2010): lists in ``ImageSets/Segmentation``, palette masks.

    ``root`` holds ``VOCdevkit/VOC<year>/{JPEGImages,SegmentationClass,ImageSets/Segmentation/<split>.txt}``. The contour
    value 255 is ignored. VOC publishes no test masks, so the test split is ``val`` by default.

    SBD (Hariharan et al. 2011) has coarser masks for more of VOC's photos. Its training and validation images are added to
    the training split, except those in ``val_list`` or ``test_list``. If both have a mask, VOC's is used. With VOC
    2012 this is the "train_aug" of DeepLab and others. FCN trained on SBD's ``train`` alone and validated on "seg11valid",
    the images of VOC 2011 val outside of it: ``sbd_lists`` [train] with such a ``val_list`` approximates that.

    Args:
        root: folder that holds ``VOCdevkit``.
        year: year of the folder ``VOC<year>``.
        class_names: classes in the order of their values in the masks; default: VOC's 21.
        train_list, val_list, test_list: files in ``ImageSets/Segmentation`` that list the images of each split.
        sbd_root: folder that holds ``benchmark_RELEASE``, relative to ``root``; None: train without SBD.
        sbd_lists: SBD's lists to use; you must add ``train_noval`` to the folder yourself.
        download: fetch missing training and validation images of the year, and SBD if ``sbd_root`` is given; torchvision
            has the URLs and checksums.
    """

    read_mask = staticmethod(read_voc_or_sbd_mask)

    def __init__(
        self,
        root: str = "data",
        year: str = "2012",
        class_names: Sequence[str] = VOC_CLASSES,
        train_list: str = "train",
        val_list: str = "val",
        test_list: str = "val",
        sbd_root: str | None = None,
        sbd_lists: Sequence[str] = ("train", "val"),
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_names=class_names, **kwargs)
        if download and year not in _ARCHIVES:
            raise UsageError(f"data.year must be one of {', '.join(sorted(_ARCHIVES))} with data.download, got {year}")
        self.folder, self.year, self.download = Path(root) / "VOCdevkit" / f"VOC{year}", year, download
        self.sbd = None if sbd_root is None else Path(root) / sbd_root / SBD
        self.lists, self.sbd_lists = {"train": train_list, "val": val_list, "test": test_list}, tuple(sbd_lists)

    def prepare_data(self) -> None:
        """Download and unpack the year, and SBD if it is used, if ``download`` is set and they are missing."""
        if self.download:
            archive = _ARCHIVES[self.year]
            fetch_folder(archive["url"], self.folder, inside=archive["base_dir"], md5=archive["md5"])
        if self.download and self.sbd is not None:
            fetch_folder(SBDataset.url, self.sbd, inside=SBD, md5=SBDataset.md5)

    def _read_pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        names = self.folder / "ImageSets" / "Segmentation" / f"{self.lists[split]}.txt"
        return pair_by_list(names, self.folder / "JPEGImages", self.folder / "SegmentationClass")

    def _sbd_pairs(self, sbd: Path, taken: set[str]) -> list[tuple[Path, Path]]:
        """Return SBD's pairs, except those with names in ``taken``."""
        if not sbd.is_dir():
            raise DataError(
                f"folder {sbd} does not exist; data.sbd_root must hold {SBD}, as unpacked from {SBDataset.url}: "
                "--data.download true fetches it"
            )
        folder = sbd / "dataset"
        listed = [
            pair_by_list(folder / f"{name}.txt", folder / "img", folder / "cls", ".mat") for name in self.sbd_lists
        ]
        unique = {image.stem: (image, mask) for pairs in listed for image, mask in pairs}
        return [pair for name, pair in unique.items() if name not in taken]

    def pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and mask of one split; training adds SBD's if ``sbd_root`` is set.

        Raises:
            DataError: a folder is missing.
        """
        if not self.folder.is_dir():
            remedy = "--data.download true fetches it" if self.year in _ARCHIVES else "check data.root and data.year"
            raise DataError(
                f"folder {self.folder} does not exist; data.root must hold VOCdevkit/VOC{self.year}: {remedy}"
            )
        pairs = self._read_pairs(split)
        if split == "train" and self.sbd is not None:
            others = [*pairs, *self._read_pairs("val"), *self._read_pairs("test")]
            pairs += self._sbd_pairs(self.sbd, taken={image.stem for image, _ in others})
        return pairs
