"""Pictures, by Pillow: upright, on a ground where they are transparent, 8 bits a colour.

Shape legend: C = 3 channels, H and W of the stored picture.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmcore.data.media.depth import Range, Values, as_8_bits, scaled_key, values_of
from mmcore.data.media.no_picture import what_is_not_read
from mmcore.data.medium import Decoded, Medium, Note, RawFolder
from mmcore.data.spec import Modality
from mmcore.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_SIDE = 2
"""Pixels; a smaller picture is what a download leaves that failed, or a tracking pixel."""
WHITE = (255, 255, 255)
ORIENTATION = 274
"""EXIF's tag."""
TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
"""EXIF's orientation -> what turns the picture upright; 1 is upright, others mean nothing."""
CUT_OFF = re.compile("(Possibly c|C)orrupt EXIF|Tag (data|offset)")
"""How Pillow's warnings begin of EXIF that is not all there."""


@dataclass(frozen=True)
class PictureRules:
    """What a picture's file leaves open.

    Attributes:
        range: The file's values that become black and white; None: by its bit depth (`mmcore.data.media.depth`).
        background: Red, green and blue of the ground that is seen through transparency.
    """

    range: Range | None = None
    background: tuple[int, int, int] = WHITE


DEFAULT_RULES = PictureRules()


class ImageFile(Medium):
    """A picture file as (3, size, size) uint8. The value is the file's path.

    The whole picture is resized, whatever its shape, as the papers do for evaluation.

    Args:
        name: Name of the modality.
        size: Height and width, pixels.
        rules: What its file leaves open.
    """

    def __init__(self, name: str, size: int, rules: PictureRules = DEFAULT_RULES):
        self._size = size
        self._rules = rules
        self.modality = Modality(name, "image", (3, size, size), "uint8")

    def read(self, folder: RawFolder, value: str) -> Decoded:
        """Decodes one file."""
        return read_image(folder.path(value), self._size, self._rules)


def read_image(path: Path, size: int, rules: PictureRules = DEFAULT_RULES) -> Decoded:
    """Reads a picture of any mode as RGB, (3, size, size) uint8; of an animation, the first frame.

    Turned as its EXIF orientation says, composed on `rules.background`, scaled to 8 bits; the notes say which.

    Raises:
        DataError: The file is damaged, truncated, smaller than MIN_SIDE, or needs a range; the message names it.
    """
    from PIL import Image, UnidentifiedImageError

    notes: list[Note] = []
    try:
        # Pillow warns of large pictures up to its limit, and reads them, and of what is cut off.
        with warnings.catch_warnings(record=True, action="always") as warned, Image.open(path) as picture:
            if min(picture.size) < MIN_SIDE:
                raise DataError(f"{path} is {picture.width}x{picture.height} pixels: no picture")
            picture.draft("RGB", (size, size))  # lets the JPEG decoder leave out what resizing throws away
            values = values_of(path, picture)
            turn = _turn(picture, warned, notes)
            if picture.format not in ("JPEG", "MPO") and getattr(picture, "is_animated", False):
                notes.append(Note("the first of several pictures taken"))
            colours = _colours(path, picture, values, rules, notes)
            resized = colours.resize((size, size), Image.Resampling.BILINEAR)
            if turn is not None:  # last, since a square's sides are alike and it is small
                resized = resized.transpose(Image.Transpose[turn])
            pixels = np.asarray(resized.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{path} can not be read as a picture: {what_is_not_read(path)}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} can not be read as a picture: {error}") from None
    return Decoded(np.ascontiguousarray(pixels.transpose(2, 0, 1)), notes=tuple(notes))


def _turn(picture: Image, warned: Sequence[warnings.WarningMessage], notes: list[Note]) -> str | None:
    """Returns what turns a picture upright, None if nothing does; notes it, and EXIF that is damaged before it."""
    if picture.format == "JPEG" and "exif" not in picture.info and "xmp" not in picture.info:
        return None
    try:
        orientation = picture.getexif().get(ORIENTATION)
        is_damaged = orientation is None and any(CUT_OFF.match(str(warning.message)) for warning in warned)
    except (SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error):
        orientation, is_damaged = None, True
    if is_damaged:
        notes.append(Note("damaged EXIF not regarded"))
    turn = TURNS.get(orientation or 1)
    if turn is not None:
        notes.append(Note("turned upright by EXIF orientation"))
    return None if picture.format == "TIFF" else turn  # Pillow turns TIFF by itself, and nothing else


def _colours(path: Path, picture: Image, values: Values, rules: PictureRules, notes: list[Note]) -> Image:
    """Returns the picture in mode RGB or L, 8 bits a colour."""
    picture.load()  # only now some formats know their mode
    if picture.mode == "La":  # colours that have been multiplied by their opacity
        picture = picture.convert("LA")
    if not values.are_plain or rules.range is not None:
        picture = as_8_bits(path, picture, values, rules.range, notes)
    if not picture.has_transparency_data:
        return picture if picture.mode in ("RGB", "L") else picture.convert("RGB")
    if picture.mode != "RGBA":
        picture = scaled_key(picture, values).convert("RGBA")
    return _composed(picture, rules.background, notes)


def _composed(picture: Image, background: tuple[int, int, int], notes: list[Note]) -> Image:
    """Returns a picture of mode RGBA on a ground, in mode RGB; notes it if the ground is seen."""
    from PIL import Image

    alpha = picture.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return picture.convert("RGB")
    notes.append(Note(f"composed on {'white' if background == WHITE else '#{:02x}{:02x}{:02x}'.format(*background)}"))
    ground = Image.new("RGB", picture.size, background)
    ground.paste(picture.convert("RGB"), mask=alpha)
    return ground
