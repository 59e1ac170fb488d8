"""The size of a picture without its pixels."""

from pathlib import Path

from PIL import ExifTags, Image

from darkroom.datamodules.io.read_images import read_image


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as ``read_image`` gives it; of all but turned photos only the header is read.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            # The method of the base class, since the one of PNG reads the pixels too.
            if Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) <= 4:
                return image.height, image.width
    except Exception:  # said well by read_image
        pass
    image = read_image(path)
    return image.height, image.width
