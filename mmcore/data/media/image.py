"""Pictures, by Pillow.

Shape legend: C = 3 channels, H and W of the stored picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmcore.data.media.base import Decoded, Medium, RawFolder
from mmcore.data.spec import Modality
from mmcore.errors import DataError

MIN_SIDE = 2
"""Pixels; a smaller picture is what a download leaves that failed, or a tracking pixel."""


class ImageFile(Medium):
    """A picture file as (3, size, size) uint8. The value is the file's path.

    The whole picture is resized, whatever its shape, as the papers do for evaluation.

    Args:
        name: Of the modality.
        size: Height and width, pixels.
    """

    def __init__(self, name: str, size: int):
        self._size = size
        self.modality = Modality(name, "image", (3, size, size), "uint8")

    def read(self, folder: RawFolder, value: str) -> Decoded:
        """Decodes one file."""
        return Decoded(read_image(folder.path(value), self._size))


def read_image(path: Path, size: int) -> np.ndarray:
    """Reads a picture of any mode as RGB, (3, size, size) uint8; of an animation, the first frame.

    Raises:
        DataError: The file is damaged, truncated, or smaller than MIN_SIDE; the message names it.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if min(picture.size) < MIN_SIDE:
                raise DataError(f"{path} is {picture.width}x{picture.height} pixels: no picture")
            picture.draft("RGB", (size, size))  # lets the JPEG decoder leave out what resizing throws away
            resized = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError:
        raise DataError(f"{path} can not be read as a picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} can not be read as a picture: {error}") from None
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
