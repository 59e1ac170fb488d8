"""Read the size of an image without its pixels."""

from pathlib import Path

from PIL import ExifTags, Image

from darkroom.datamodules.io.read_images import read_image


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image after EXIF rotation; only the header is read, except of rotated photos.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            # The method of the base class; that of PNG also reads the pixels.
            if Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) <= 4:
                return image.height, image.width
    except Exception:  # read_image raises an error that names the file
        pass
    image = read_image(path)
    return image.height, image.width
