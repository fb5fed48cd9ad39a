"""Pictures of other than 8 bits a colour, and how their values become 8 bits.

Unsigned values of up to 16 bits are scaled by the file's bit depth, floats within [0, 1] by 255. What signed, longer
and other floating values mean stands in no file, so a person must say it: the range that becomes black to white.
Pillow scales some files by itself, leaves others as they are, and reads some as another type than they are; what it
does with each format is undone here, so that a range is always one of the values in the file.

Shape legend: H, W of the file's picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmcore.data.medium import Note
from mmcore.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Range = tuple[float, float]
NUMERIC_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
NUMERIC_FORMATS = frozenset({"PNG", "TIFF", "PPM", "JPEG2000"})
"""Formats of which it is known here what the numbers in them mean."""
PLAIN_FORMATS = frozenset({"JPEG", "MPO", "GIF", "WEBP", "BMP"})
BITS, PHOTOMETRIC, PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 284, 338, 339
"""Tags of TIFF."""
BY_PLANE = 2
"""All of the first colour, then all of the second."""
PREMULTIPLIED = 1
"""Kind of an extra sample: opacity, by which the colours have been multiplied."""
WHITE_IS_ZERO, GREY, RGB = 0, 1, 2
JPEG2000_START, JPEG2000_BITS = b"\xff\x4f\xff\x51", 42
"""What a codestream begins with, and where, counted from there, the first component's sign and bits stand."""
JPEG2000_HEADER = 2**20


class Values(NamedTuple):
    """What the numbers of a picture's file are.

    Attributes:
        kind: Unsigned or signed integers, or floats.
        bits: Bits of each value.
        top: The largest unsigned value of the file: 4095 of a PGM that says so.
        seen: What Pillow makes of `top`.
        white_is_zero: Whether 0 is white.
    """

    kind: str = "unsigned"
    bits: int = 8
    top: int = 255
    seen: int = 255
    white_is_zero: bool = False

    @property
    def are_plain(self) -> bool:
        """Whether Pillow's picture can be taken as it is."""
        return self.kind == "unsigned" and self.bits <= 8


PLAIN = Values()


def values_of(path: Path, picture: Image) -> Values:
    """Returns what the numbers of an opened picture are; to be called before its pixels are loaded.

    Raises:
        DataError: It holds other than 8-bit colours, in a format that does not say what they mean, or in an order
            that they are not read in.
    """
    if picture.format in PLAIN_FORMATS:
        return PLAIN
    if picture.mode in NUMERIC_MODES and picture.format not in NUMERIC_FORMATS:
        raise DataError(
            f"{path} holds numbers of more than 8 bits in a format ({picture.format}) that leaves their scale open: "
            "save it as PNG or TIFF"
        )
    if picture.format == "TIFF":
        return _of_tiff(path, picture)
    if picture.format == "JPEG2000":
        return _of_jpeg2000(path, picture)
    tiles: Any = getattr(picture, "tile", [])  # how Pillow is going to unpack the pixels
    arguments = tiles[0].args if tiles else None
    if picture.format == "PPM":
        return _of_ppm(picture, tiles[0].codec_name, arguments)
    raw_mode = arguments if isinstance(arguments, str) else str(arguments[0] if arguments else "")
    if ";16" in raw_mode:
        return Values(bits=16, top=65535, seen=65535 if picture.mode in NUMERIC_MODES else 255)
    top = {"1": 1, "L;1": 1, "L;2": 3, "L;4": 15}.get(raw_mode, 255)
    return PLAIN._replace(top=top)


def _of_tiff(path: Path, picture: Image) -> Values:
    tags = picture.tag_v2  # type: ignore[attr-defined]
    bits, photometric = max(tags.get(BITS, (1,))), tags.get(PHOTOMETRIC)
    if bits > 8 and tags.get(PLANAR) == BY_PLANE and len(tags[BITS]) > 1:  # Pillow and OpenCV misread it
        raise DataError(f"{path} holds colours of {bits} bits plane by plane: save it as PNG, or pixel by pixel")
    kind = {2: "signed", 3: "float"}.get(tags.get(SAMPLE_FORMAT, (1,))[0], "unsigned")
    grey = photometric in (WHITE_IS_ZERO, GREY)
    top = 2**bits - 1 if grey or bits > 8 else 255
    seen = top if picture.mode in NUMERIC_MODES else 255
    return Values(kind, bits, top, seen, photometric == WHITE_IS_ZERO)


def _of_ppm(picture: Image, codec: str, arguments: Any) -> Values:
    if picture.mode == "F":
        return Values("float", 32)
    seen = 65535 if picture.mode in NUMERIC_MODES else 255
    if picture.mode == "1":
        top = 1
    elif codec in ("ppm", "ppm_plain"):  # which scale by the largest value the file states
        top = int(arguments[1])
    else:
        top = seen
    return Values(bits=top.bit_length(), top=top, seen=seen)


def _of_jpeg2000(path: Path, picture: Image) -> Values:
    with path.open("rb") as file:
        head = file.read(JPEG2000_HEADER)
    place = head.find(JPEG2000_START) + JPEG2000_BITS
    bits = (head[place] & 127) + 1
    top = 2**bits - 1
    seen = top << (16 - bits) if picture.mode in NUMERIC_MODES else 255
    return Values("signed" if head[place] & 128 else "unsigned", bits, top, seen)


def as_8_bits(path: Path, picture: Image, values: Values, wanted: Range | None, notes: list[Note]) -> Image:
    """Returns a picture in mode L, LA, RGB or RGBA, its values scaled to 8 bits.

    Args:
        path: Its file.
        picture: As Pillow opened it.
        values: What its numbers are.
        wanted: The file's values that become 0 and 255; None: by the file's bit depth, or of floats 0 and 1.
        notes: Gets what was done.

    Raises:
        DataError: The values need a range, or are no finite numbers; or the file cannot be read by its values.
    """
    from PIL import Image

    picture.load()
    if values.kind != "unsigned" or values.bits > 16:
        return Image.fromarray(_scaled_numbers(_numbers(path, picture, values), path, values, wanted, notes))
    key = picture.info.get("transparency")
    if picture.mode in NUMERIC_MODES:
        array, has_alpha = np.asarray(picture).astype(np.uint16, copy=False), isinstance(key, int)
        if has_alpha:
            array = np.stack([array, np.where(array == key, 0, 255).astype(np.uint16)], axis=-1)
    elif values.bits > 8 and (wanted is not None or key is not None):
        array = _all_bits(path, picture)
        has_alpha = array.shape[-1] == 4
        values = values._replace(seen=values.top)
    elif wanted is None:
        notes.append(Note(f"scaled from {values.bits} bit"))
        return picture  # Pillow has done it: it keeps the upper byte
    else:
        has_alpha = picture.has_transparency_data
        array = _eight_bits(picture, values)
    return Image.fromarray(_looked_up(array, values, wanted, notes, has_alpha=has_alpha))


def _eight_bits(picture: Image, values: Values) -> np.ndarray:
    """Returns a picture of up to 8 bits a colour, (H, W) grey or (H, W, 3 or 4)."""
    if picture.has_transparency_data:
        array = np.asarray(scaled_key(picture, values).convert("RGBA"))
    else:
        array = np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    return 255 - array if values.white_is_zero else array  # Pillow has turned it round


def scaled_key(picture: Image, values: Values) -> Image:
    """Returns the picture with its transparent grey as Pillow has scaled the others: it leaves that one alone."""
    key = picture.info.get("transparency")
    if picture.mode == "L" and isinstance(key, int) and values.top < 255:
        picture.info["transparency"] = key * 255 // values.top
    return picture


def _looked_up(
    array: np.ndarray, values: Values, wanted: Range | None, notes: list[Note], *, has_alpha: bool
) -> np.ndarray:
    """Returns unsigned values scaled to 8 bits by a table, transparency as it is; notes it."""
    colours = array[..., :-1] if has_alpha else array
    low, high = wanted or (0, values.top)
    scaled = _table(low, high, values).take(colours)
    if wanted is None:
        notes.append(Note(f"scaled from {values.bits} bit"))
    else:
        stored = np.rint(np.array([colours.min(), colours.max()]) * (values.top / values.seen))
        is_outside = stored[0] < low or stored[1] > high
        notes += _notes_of_range(low, high, _stored(colours, values) if is_outside else None)
    if not has_alpha:
        return scaled
    alpha = array[..., -1:]
    return np.concatenate([scaled, (alpha >> 8 if alpha.max() > 255 else alpha).astype(np.uint8)], axis=-1)


def _stored(seen: np.ndarray, values: Values) -> np.ndarray:
    """Returns the file's values of what Pillow made of them."""
    return np.rint(seen * (values.top / values.seen))


@lru_cache(maxsize=16)
def _table(low: float, high: float, values: Values) -> np.ndarray:
    """Returns what each value that Pillow gives becomes, uint8."""
    stored = _stored(np.arange(max(values.seen, 255) + 1), values)
    return _mapped(stored, low, high, white_is_zero=values.white_is_zero)


def _mapped(stored: np.ndarray, low: float, high: float, *, white_is_zero: bool) -> np.ndarray:
    scaled = np.rint(np.clip((stored - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return 255 - scaled if white_is_zero else scaled


def _numbers(path: Path, picture: Image, values: Values) -> np.ndarray:
    """Returns signed, longer or floating values as the file has them, (H, W).

    Raises:
        DataError: Pillow does not give them.
    """
    if picture.mode not in (*NUMERIC_MODES, "L") or picture.format == "JPEG2000":
        raise DataError(f"{path} holds {_words(values)} in mode {picture.mode}: save it as 8 or 16 bit unsigned")
    array = np.asarray(picture)
    if picture.mode == "L":  # signed bytes, which Pillow takes for unsigned ones and of which it may turn white round
        return (255 - array if values.white_is_zero else array).view(np.int8)
    return array.view(np.uint32) if values.kind == "unsigned" and picture.mode == "I" else array


def _scaled_numbers(
    array: np.ndarray, path: Path, values: Values, wanted: Range | None, notes: list[Note]
) -> np.ndarray:
    if values.kind == "float" and not np.isfinite(array).all():
        raise DataError(f"{path} holds {int((~np.isfinite(array)).sum())} values that are no finite numbers")
    least, most = float(array.min()), float(array.max())
    if wanted is None and not (values.kind == "float" and least >= 0 and most <= 1):
        beyond = " beyond [0, 1]" if values.kind == "float" else ""
        raise DataError(
            f"{path} holds {_words(values)}{beyond}, from {least:.10g} to {most:.10g}: set range: [low, high] of this "
            "modality in the description, the values that become black and white"
        )
    low, high = wanted or (0.0, 1.0)
    if wanted is None:
        notes.append(Note("scaled from floats in [0, 1]"))
    else:
        notes += _notes_of_range(low, high, array if least < low or most > high else None)
    return _mapped(array.astype(np.float64), low, high, white_is_zero=values.white_is_zero)


def _notes_of_range(low: float, high: float, outside: np.ndarray | None) -> Sequence[Note]:
    """Returns the notes of a given range; `outside` are the file's values, if any lies outside."""
    notes = [Note(f"scaled from the range [{low:.10g}, {high:.10g}]")]
    if outside is not None:
        share = float(np.mean((outside < low) | (outside > high)))
        notes.append(Note(f"clipped to the range [{low:.10g}, {high:.10g}]", f"{100 * share:.2g} % of its values"))
    return notes


def _words(values: Values) -> str:
    return {"float": f"{values.bits}-bit floats"}.get(values.kind, f"{values.kind} {values.bits}-bit integers")


def _all_bits(path: Path, picture: Image) -> np.ndarray:
    """Returns 16-bit colours, (H, W, 3 or 4) uint16, by OpenCV: Pillow keeps the upper byte of each.

    Of TIFF, OpenCV gives a fourth sample as it stands; Pillow knows what it means.

    Raises:
        DataError: OpenCV does not read them in this format.
    """
    can_be_read = picture.format in ("PNG", "TIFF") and picture.mode in ("RGB", "RGBA")
    found = _by_opencv(path) if can_be_read else None
    if found is None or found.dtype != np.uint16 or found.ndim != 3 or found.shape[2] not in (3, 4):
        raise DataError(
            f"{path} holds more than 8 bits a colour ({picture.format}, {picture.mode}), of which 8 can be read: "
            "to give a range, save it as PNG"
        )
    samples = np.ascontiguousarray(found[..., [2, 1, 0, 3][: found.shape[2]]])
    if picture.format == "PNG" or samples.shape[2] == 3:
        return samples
    if picture.mode == "RGB":  # nobody knows what the fourth is
        return samples[..., :3]
    tags: Any = picture.tag_v2  # type: ignore[attr-defined]
    return _unmultiplied(samples) if tags.get(EXTRA_SAMPLES) == (PREMULTIPLIED,) else samples


def _by_opencv(path: Path) -> np.ndarray | None:
    """Returns what OpenCV makes of a picture's file, None if it does not read it; and does not say so itself."""
    import cv2

    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)


def _unmultiplied(samples: np.ndarray) -> np.ndarray:
    """Returns colours, (H, W, 4), that had been multiplied by their opacity, as they were before."""
    alpha = samples[..., 3:]
    colours = np.rint(samples[..., :3] * (65535 / np.maximum(alpha, 1)))
    return np.concatenate([np.minimum(colours, 65535).astype(np.uint16), alpha], axis=-1)
