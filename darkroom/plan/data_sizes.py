"""Numbers of training images and of classes of public data sets, for plans without their files."""

from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.detection import CocoDetection, VOCDetection
from darkroom.datamodules.images import CIFAR10, MNIST, CelebA, FashionMNIST
from darkroom.datamodules.segmentation import VOCSegmentation
from darkroom.datamodules.shapes import ShapesCaptions, ShapesDetection, ShapesImages, ShapesSegmentation

# Images of the lists in ImageSets/Main, by year and list (Everingham et al. 2010, and the VOC 2012 development kit).
_VOC = {("2007", "train"): 2501, ("2007", "trainval"): 5011, ("2012", "train"): 5717, ("2012", "trainval"): 11540}
# ImageSets/Segmentation/train.txt of VOC 2012, and the 10,582 images with SBD's (Hariharan et al. 2011).
_VOC_SEGMENTATION, _WITH_SBD = 1464, 10_582
# train2017 of COCO (Lin et al. 2014), and its images with an object.
_COCO, _COCO_WITH_OBJECTS = 118_287, 117_266
_CELEBA = 162_770  # partition 0 of list_eval_partition.txt (Liu et al. 2015)


def usual_classes(data: VisionDataModule) -> int:
    """Return the number of classes of a data set that reads them from files; 0: unknown, or none."""
    return 80 if isinstance(data, CocoDetection) else 0


def usual_samples(data: VisionDataModule) -> int | None:
    """Return the number of training images of a data set in its public form; None: it is unknown."""
    if isinstance(data, ShapesCaptions | ShapesDetection | ShapesImages | ShapesSegmentation):
        return data.sizes["train"]
    if isinstance(data, MNIST | FashionMNIST):
        return round(60_000 * (1 - data.val_fraction))
    if isinstance(data, CIFAR10):
        return round(50_000 * (1 - data.val_fraction))
    if isinstance(data, CelebA):
        return _CELEBA
    if isinstance(data, VOCDetection):
        counts = [_VOC.get(pair) for pair in data.lists_of["train"]]
        return None if None in counts else sum(count for count in counts if count is not None)
    if isinstance(data, VOCSegmentation) and data.year == "2012":
        return _VOC_SEGMENTATION if data.sbd is None else _WITH_SBD
    if isinstance(data, CocoDetection):
        return _COCO if data.keep_empty else _COCO_WITH_OBJECTS
    return None
