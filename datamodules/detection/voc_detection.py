"""VOCDetection: PASCAL VOC 2007-2012, or any data in its layout."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets.voc import DATASET_YEAR_DICT

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule, list_images_by_stem
from darkroom.datamodules.detection.formats.voc import parse_voc
from darkroom.datamodules.io.download import fetch_folder
from darkroom.datamodules.io.pairing import read_split_list
from darkroom.datamodules.segmentation.voc_segmentation import VOC_CLASSES
from darkroom.errors import DataError, UsageError

_ARCHIVES = {year: archive for year, archive in DATASET_YEAR_DICT.items() if year.isdigit()}
_TEST_2007 = DATASET_YEAR_DICT["2007-test"]


class VOCDetection(DetectionDataModule):
    """Detection in PASCAL VOC layout (Everingham et al. 2010): lists in ``ImageSets/Main``, an XML file per image.

    ``root`` holds ``VOCdevkit/VOC<year>/{JPEGImages,Annotations,ImageSets/Main/<list>.txt}``. Objects marked as difficult
    are loaded, left out of training unless ``train_on_difficult``, and ignored in VOC's AP. "07+12" is ``years``
    [2007, 2012] with ``train_list`` trainval, ``val_list`` test and ``eval_year`` 2007. VOC has published the boxes of test
    images only for 2007.

    Args:
        root: the folder that holds ``VOCdevkit``.
        years: years of the folders ``VOC<year>`` to train on.
        class_names: the classes; default: VOC's 20.
        ignore_classes: classes whose objects are left out.
        train_list, val_list, test_list: files in ``ImageSets/Main`` that list the images of each split.
        eval_year: year to validate and test on; None: the last of ``years``.
        one_based: pixels are counted from 1, as in VOC and most tools that write its format.
        download: fetch missing training and validation images of the years, and the test images of 2007 where a list needs
            them; torchvision has the URLs and checksums.
    """

    class_names: Sequence[str] = ()

    def __init__(
        self,
        root: str = "data",
        years: Sequence[int | str] = (2007,),
        class_names: Sequence[str] = VOC_CLASSES[1:],
        ignore_classes: Sequence[str] = (),
        train_list: str = "train",
        val_list: str = "val",
        test_list: str = "test",
        eval_year: int | str | None = None,
        one_based: bool = True,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not years:
            raise UsageError("data.years is empty; it must have a year to train on, for example [2007]")
        if both := set(class_names) & set(ignore_classes):
            raise UsageError(f"data.class_names and data.ignore_classes both have {sorted(both)}; remove them from one")
        if self.masks:
            raise UsageError("data.masks must be false, since VOCDetection has boxes alone; InstanceFolder has masks")
        self.devkit, self.download = Path(root) / "VOCdevkit", download
        self.class_names, self.ignore_classes, self.one_based = tuple(class_names), tuple(ignore_classes), one_based
        eval_year = years[-1] if eval_year is None else eval_year
        self.lists_of: dict[LabelledSplit, list[tuple[str, str]]] = {
            "train": [(str(year), train_list) for year in years],
            "val": [(str(eval_year), val_list)],
            "test": [(str(eval_year), test_list)],
        }
        self.needed = sorted({pair for pairs in self.lists_of.values() for pair in pairs})
        if unknown := {year for year, _ in self.needed} - _ARCHIVES.keys() if download else ():
            raise UsageError(
                f"data.download supports the years {', '.join(sorted(_ARCHIVES))}, got {', '.join(sorted(unknown))}"
            )

    def prepare_data(self) -> None:
        """Download and unpack the missing years if ``download`` is set."""
        for year in sorted({year for year, _ in self.needed}) if self.download else ():
            archive = _ARCHIVES[year]
            fetch_folder(archive["url"], self.devkit / f"VOC{year}", inside=archive["base_dir"], md5=archive["md5"])
        if self.download and ("2007", "test") in self.needed:
            self._fetch_test()

    def _fetch_test(self) -> None:
        """Add the test images to the folder of 2007, their list last: if the list exists, so do all images."""
        folder, part = self.devkit / "VOC2007", self.devkit / "VOC2007-test"
        last = folder / "ImageSets/Main/test.txt"
        if last.is_file():
            return
        fetch_folder(_TEST_2007["url"], part, inside=_TEST_2007["base_dir"], md5=_TEST_2007["md5"])
        moves = {path: folder / path.relative_to(part) for path in part.rglob("*") if path.is_file()}
        for path, goal in sorted(moves.items(), key=lambda move: move[1] == last):
            goal.parent.mkdir(parents=True, exist_ok=True)
            path.replace(goal)
        shutil.rmtree(part)

    def _read_pairs(self, year: str, list_name: str) -> list[tuple[Path, Path]]:
        """Return the files of image and annotation."""
        folder = self.devkit / f"VOC{year}"
        if not folder.is_dir():
            remedy = ", or --data.download true, which fetches PASCAL VOC itself" if year in _ARCHIVES else ""
            raise DataError(
                f"folder {folder} does not exist. Your own folder of images and XML files: --data VOCFolder --data.root "
                f"FOLDER. VOC's layout: data.root must hold VOCdevkit/VOC{year}; check data.root and data.years{remedy}"
            )
        names = folder / "ImageSets" / "Main" / f"{list_name}.txt"
        listed_stems = read_split_list(names)
        images = list_images_by_stem(folder / "JPEGImages")
        pairs = []
        for name in listed_stems:
            if name not in images:
                raise DataError(f"{folder / 'JPEGImages' / name}.jpg does not exist, but {names} lists it; add it")
            pairs.append((images[name], folder / "Annotations" / f"{name}.xml"))
        return pairs

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Parse the XML files of a split; see ``parse_voc``."""
        pairs = [pair for year, name in self.lists_of[split] for pair in self._read_pairs(year, name)]
        return self.parse_pairs(
            split,
            pairs,
            lambda path, image, number: parse_voc(
                path, image, self.class_names, self.ignore_classes, self.one_based, number
            ),
        )
