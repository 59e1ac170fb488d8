"""CocoCaptions: photos of everyday scenes, each described in five sentences."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.captions.base import CaptionDataModule, CaptionedFile
from darkroom.errors import DataError

ADDRESS = "https://cocodataset.org"


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes())
        if not all(isinstance(content[key], list) for key in ("images", "annotations")):
            raise KeyError("images")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path} does not exist; data.root must hold annotations/ beside the folders of images, from {ADDRESS}"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is not in the format of COCO's captions ({error!r}); download it again from {ADDRESS}"
        ) from error
    return content


def parse_captions(path: Path, folder: Path) -> list[CaptionedFile]:
    """Read the images and captions of a JSON in the format of COCO's captions, in its order.

    Args:
        path: file of the JSON.
        folder: folder of the images that it names.

    Raises:
        DataError: the JSON cannot be parsed, or an image does not exist or has no caption.
    """
    content = _read(path)
    captions: dict[int, list[str]] = defaultdict(list)
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(" ".join(annotation["caption"].split()))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} has an image or a caption without {error}; download it again from {ADDRESS}"
        ) from error
    if not folder.is_dir():
        raise DataError(f"folder {folder} does not exist, but {path} lists its images; download them from {ADDRESS}")
    existing = {file.name for file in folder.iterdir()}  # faster than one call for each file
    missing = [name for name in names.values() if name not in existing]
    without_caption = [name for key, name in names.items() if not any(captions.get(key, ()))]
    if missing:
        raise DataError(
            f"{path} lists {len(missing)} images that {folder} lacks ({', '.join(missing[:5])} ...); download "
            f"them from {ADDRESS}"
        )
    if without_caption or not names:
        raise DataError(f"{path} has no captions of {', '.join(without_caption[:5]) or 'any image'}; add them")
    return [CaptionedFile(folder / name, tuple(filter(None, captions[key]))) for key, name in names.items()]


class CocoCaptions(CaptionDataModule):
    """COCO's captions (Chen et al. 2015): 118,287 photos to train on and 5,000 to validate, about five captions each.

    ``root`` holds ``train<year>/``, ``val<year>/`` and ``annotations/captions_{train,val}<year>.json``. The captions of the
    official test images are not public, so the test split is the validation split. Download: https://cocodataset.org.

    Args:
        root: folder of the above.
        year: 2017, or 2014: the same photos, 82,783 to train on and 40,504 to validate.
        size, channels, background, flip, max_words, limit, mean, std: see ``CaptionDataModule``.
    """

    def __init__(self, root: str = "data/coco", year: Literal[2014, 2017] = 2017, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.year = Path(root), year

    def files(self, split: LabelledSplit) -> list[CaptionedFile]:
        """Return the images of a split; the test split is the validation split.

        Raises:
            DataError: see ``parse_captions``.
        """
        name = f"{'val' if split == 'test' else split}{self.year}"
        return parse_captions(self.root / "annotations" / f"captions_{name}.json", self.root / name)
