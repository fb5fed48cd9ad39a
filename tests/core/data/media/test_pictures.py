"""Pictures of every depth, orientation and transparency: what is stored of them, and what is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import save_png, save_tiff
from PIL import Image
from raw_files import save_picture
from stored_media import store

from mmcore.data.media import ImageFile, PictureRules, RawFolder, read_image
from mmcore.data.prepared.raw_check import examine, problem_summary
from mmcore.data.raw.description import ManifestConfig, read_description
from mmcore.data.sources.user_table import Manifest
from mmcore.errors import ConfigError, DataError

SIDE = 8
RAMP = np.tile(np.linspace(0, 1, SIDE), (SIDE, 1))
RAMP16 = np.rint(RAMP * 65535).astype(np.uint16)
RAMP8 = np.rint(RAMP * 255).astype(np.uint8)
COLOURS16 = np.stack([RAMP16, RAMP16[:, ::-1], RAMP16 // 2], axis=-1)


def save_pgm(path: Path, values: np.ndarray, top: int) -> str:
    data = values.astype(">u2" if top > 255 else np.uint8).tobytes()
    path.write_bytes(f"P5\n{SIDE} {SIDE}\n{top}\n".encode() + data)
    return path.name


def read(path: Path, **rules: Any) -> np.ndarray:
    """The first row of the three equal channels."""
    array = read_image(path, SIDE, PictureRules(**rules)).array
    np.testing.assert_array_equal(array, np.broadcast_to(array[:1, :1], array.shape))
    return array[0, 0]


class TestDepth:
    def test_sixteen_bits_are_scaled_by_the_files_depth_or_a_range(self, tmp_path: Path) -> None:
        """The ramp over all 16 bits and the one over 12 of them, as depth cameras write it."""
        Image.fromarray(RAMP16).save(tmp_path / "full.png")
        Image.fromarray(RAMP16 // 16).save(tmp_path / "twelve.png")
        full, twelve = store(tmp_path, "full.png", "twelve.png", kind="image", size=SIDE)
        assert full.array.mean() == 127.5
        np.testing.assert_array_equal(full.array[0], RAMP8)
        assert abs(twelve.array.mean() - 8.0) < 0.1
        assert full.rules == twelve.rules == ["m scaled from 16 bit"]
        full, twelve = store(tmp_path, "full.png", "twelve.png", kind="image", size=SIDE, range=[0, 4095])
        assert twelve.array.mean() == 127.5
        assert twelve.rules == ["m scaled from the range [0, 4095]"]
        assert full.rules == [*twelve.rules, "m clipped to the range [0, 4095]"]

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_of_tiff(self, tmp_path: Path, order: str) -> None:
        names = [
            save_tiff(tmp_path / "u16.tif", RAMP16, order=order),
            save_tiff(tmp_path / "f32.tif", RAMP.astype(np.float32), "float", order=order),
        ]
        for stored in store(tmp_path, *names, kind="image", size=SIDE):
            np.testing.assert_array_equal(stored.array, np.broadcast_to(RAMP8, (3, SIDE, SIDE)))

    def test_white_at_zero_is_turned_round(self, tmp_path: Path) -> None:
        """Pillow turns bytes round, and nothing else."""
        save_tiff(tmp_path / "u8.tif", RAMP8, photometric=0)
        save_tiff(tmp_path / "u16.tif", RAMP16, photometric=0)
        save_tiff(tmp_path / "f32.tif", RAMP.astype(np.float32), "float", photometric=0)
        for name in ("u8.tif", "u16.tif", "f32.tif"):
            np.testing.assert_array_equal(read(tmp_path / name), 255 - RAMP8[0])
        save_tiff(tmp_path / "four.tif", RAMP8 // 17, photometric=0)
        np.testing.assert_array_equal(read(tmp_path / "four.tif", range=(0, 15)), 255 - RAMP8[0] // 17 * 17)

    def test_other_formats_of_sixteen_bits(self, tmp_path: Path) -> None:
        Image.fromarray(RAMP16).save(tmp_path / "a.jp2")
        save_pgm(tmp_path / "full.pgm", RAMP16, 65535)
        save_pgm(tmp_path / "twelve.pgm", RAMP16 // 16, 4095)
        save_pgm(tmp_path / "bytes.pgm", np.rint(RAMP * 100), 100)
        (tmp_path / "a.pfm").write_bytes(b"Pf\n8 8\n-1.0\n" + RAMP.astype("<f4").tobytes())
        for name in ("a.jp2", "full.pgm", "twelve.pgm", "bytes.pgm", "a.pfm"):
            np.testing.assert_allclose(read(tmp_path / name), RAMP8[0], atol=2)

    def test_a_range_is_one_of_the_files_values_whatever_pillow_makes_of_them(self, tmp_path: Path) -> None:
        half = np.minimum(255, 2 * RAMP8[0].astype(int))
        save_pgm(tmp_path / "twelve.pgm", RAMP16 // 16, 4095)
        np.testing.assert_allclose(read(tmp_path / "twelve.pgm", range=(0, 4095)), RAMP8[0], atol=1)
        save_pgm(tmp_path / "bytes.pgm", np.rint(RAMP * 100), 100)
        np.testing.assert_allclose(read(tmp_path / "bytes.pgm", range=(0, 50)), half, atol=3)
        save_png(tmp_path / "four.png", RAMP16 >> 12, colour=0, bits=4)
        np.testing.assert_allclose(read(tmp_path / "four.png", range=(0, 15)), (RAMP16[0] >> 12) * 17)
        save_png(tmp_path / "one.png", RAMP16 >> 15, colour=0, bits=1)
        np.testing.assert_array_equal(read(tmp_path / "one.png", range=(0, 1)), (RAMP16[0] >> 15) * 255)
        Image.fromarray(RAMP8 // 2).save(tmp_path / "eight.png")
        np.testing.assert_allclose(read(tmp_path / "eight.png", range=(0, 127)), RAMP8[0], atol=2)

    def test_sixteen_bits_of_each_colour(self, tmp_path: Path) -> None:
        """Pillow keeps the upper byte: of 12 bits in 16 a range needs the others."""
        save_png(tmp_path / "full.png", COLOURS16, colour=2, bits=16)
        save_png(tmp_path / "twelve.png", COLOURS16 // 16, colour=2, bits=16)
        (full,) = store(tmp_path, "full.png", kind="image", size=SIDE)
        expected = np.rint(COLOURS16[0] / 257).T
        np.testing.assert_allclose(full.array[:, 0], expected, atol=1)
        assert full.rules == ["m scaled from 16 bit"]
        (twelve,) = store(tmp_path, "twelve.png", kind="image", size=SIDE, range=[0, 4095])
        np.testing.assert_allclose(twelve.array[:, 0], expected, atol=1)
        (tmp_path / "a.ppm").write_bytes(b"P6\n8 8\n65535\n" + COLOURS16.astype(">u2").tobytes())
        np.testing.assert_allclose(read_image(tmp_path / "a.ppm", SIDE).array[:, 0], expected, atol=1)
        with pytest.raises(DataError, match=r"a.ppm holds more than 8 bits a colour .*save it as PNG"):
            read_image(tmp_path / "a.ppm", SIDE, PictureRules(range=(0, 4095)))

    @pytest.mark.parametrize(
        ("values", "kind", "words", "scale"),
        [
            ((RAMP16.astype(int) - 32768).astype(np.int16), "signed", "signed 16-bit integers, from -32768 to 32767",
             (-32768, 32767)),
            ((RAMP8.astype(int) - 128).astype(np.int8), "signed", "signed 8-bit integers, from -128 to 127",
             (-128, 127)),
            (RAMP16.astype(np.uint32) * 65537, "unsigned", "unsigned 32-bit integers, from 0 to 4294967295",
             (0, 2**32)),
            (RAMP16.astype(np.int32) * 100 - 9, "signed", "signed 32-bit integers, from -9 to 6553491", (-9, 6553491)),
            ((RAMP * 4).astype(np.float32), "float", r"32-bit floats beyond \[0, 1\], from 0 to 4", (0, 4)),
        ],
    )  # fmt: skip
    def test_what_means_nothing_by_itself_needs_a_range(
        self, tmp_path: Path, values: np.ndarray, kind: str, words: str, scale: tuple[float, float]
    ) -> None:
        name = save_tiff(tmp_path / "a.tif", values, kind)
        with pytest.raises(DataError, match=rf"a.tif holds {words}.*: set range: \[low, high\]"):
            store(tmp_path, name, kind="image", size=SIDE)
        (stored,) = store(tmp_path, name, kind="image", size=SIDE, range=list(scale))
        np.testing.assert_allclose(stored.array[0], RAMP8, atol=1)

    def test_what_has_no_sixteen_bits_to_be_read_is_refused_without_noise(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """OpenCV, too, says on the terminal what it can not read."""
        colours = np.stack([65535 - RAMP16] * 3 + [np.zeros_like(RAMP16)], axis=-1)
        save_tiff(tmp_path / "a.tif", colours, photometric=5)
        np.testing.assert_allclose(read(tmp_path / "a.tif"), RAMP8[0], atol=1)
        with pytest.raises(DataError, match=r"a.tif holds more than 8 bits a colour \(TIFF, CMYK\).*save it as PNG"):
            read_image(tmp_path / "a.tif", SIDE, PictureRules(range=(0, 65535)))
        assert capfd.readouterr() == ("", "")

    def test_numbers_that_are_none_are_damage(self, tmp_path: Path) -> None:
        values = RAMP.astype(np.float32)
        values[0, :2] = np.nan, np.inf
        save_tiff(tmp_path / "a.tif", values, "float")
        with pytest.raises(DataError, match=r"a.tif holds 2 values that are no finite numbers"):
            read_image(tmp_path / "a.tif", SIDE, PictureRules(range=(0, 1)))

    def test_colours_plane_by_plane(self, tmp_path: Path) -> None:
        """Pillow takes 16 bits of them for 8."""
        colours = COLOURS16 // 257
        save_tiff(tmp_path / "a.tif", colours.astype(np.uint8), photometric=2, by_plane=True)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", SIDE).array, np.moveaxis(colours, -1, 0))
        save_tiff(tmp_path / "a.tif", COLOURS16, photometric=2, by_plane=True)
        for wanted in (None, (0, 65535)):
            with pytest.raises(DataError, match=r"a.tif holds colours of 16 bits plane by plane: save it as PNG"):
                read_image(tmp_path / "a.tif", SIDE, PictureRules(wanted))

    @pytest.mark.parametrize(
        ("values", "kind", "message"),
        [
            (RAMP, "float", "of 64 bits: save it as 8- or 16-bit integers or 32-bit floats"),
            (np.stack([RAMP16, RAMP16], axis=-1), "unsigned", "of 16, 16 bits: save it as PNG"),
        ],
    )
    def test_a_kind_of_tiff_that_is_not_read_is_told(
        self, tmp_path: Path, values: np.ndarray, kind: str, message: str
    ) -> None:
        save_tiff(tmp_path / "a.tif", values, kind, extra=[2] if values.ndim == 3 else [])
        with pytest.raises(DataError, match=rf"a.tif .*: Pillow reads no TIFF file with pixels {message}"):
            read_image(tmp_path / "a.tif", SIDE)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>404", r"it is text \('<!DOCTYPE html>'\), as a failed "),
            (b'{"error": "not found"}', r"it is text \('{.*}'\), as a failed download leaves: get it again"),
            (b"<?xml version='1.0'?>\n<svg xmlns='x'>", "it is an SVG drawing: save it as PNG"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "it is a HEIC picture: save it as JPEG or PNG"),
            (b"%PDF-1.7\n\xe2\xe3", "it is a PDF: save it as PNG"),
            (b"\0\1\2\3" * 99, "it is damaged, or of no format that Pillow reads: save it as JPEG or PNG"),
        ],
    )  # fmt: skip
    def test_what_is_no_picture_is_told_and_what_to_do(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=rf"a.png can not be read as a picture: {message}"):
            read_image(tmp_path / "a.png", SIDE)

    def test_a_format_that_leaves_its_scale_open_is_refused(self, tmp_path: Path) -> None:
        """FITS: its 16 bits are signed, and what they count stands in keys that Pillow does not read."""
        cards = ["SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2",
                 "NAXIS1  =                    8", "NAXIS2  =                    8", "END"]  # fmt: skip
        header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
        (tmp_path / "a.fits").write_bytes(header + RAMP16.astype(">u2").tobytes().ljust(2880, b"\0"))
        with pytest.raises(DataError, match=r"a.fits .* format \(FITS\) that leaves their scale open: save it as PNG"):
            read_image(tmp_path / "a.fits", SIDE)


PARTS = np.zeros((24, 36, 3), np.uint8)
PARTS[:12, :18], PARTS[:12, 18:], PARTS[12:, :18] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
"""Red, green, blue and black quarters: no turn looks like another."""


def quarters(array: np.ndarray) -> list[list[int]]:
    """The colours of a stored picture's quarters, row by row, in hundreds."""
    middle, last = array.shape[1] // 4, 3 * array.shape[1] // 4
    return [np.rint(array[:, y, x] / 100).astype(int).tolist() for y in (middle, last) for x in (middle, last)]


class TestOrientation:
    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "mpo"])
    def test_all_eight(self, tmp_path: Path, suffix: str) -> None:
        upright = Image.fromarray(PARTS)
        # What the camera stored, so that EXIF's turn leads back to the upright picture.
        stored_as: dict[int, Image.Transpose | None] = {
            1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
        }  # fmt: skip
        names = []
        for orientation, turn in stored_as.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            picture = upright if turn is None else upright.transpose(turn)
            names.append(f"{orientation}.{suffix}")
            more: dict[str, Any] = {"save_all": True, "append_images": [picture]} if suffix == "mpo" else {}
            picture.save(tmp_path / names[-1], exif=exif, **more)
        for orientation, stored in enumerate(store(tmp_path, *names, kind="image", size=SIDE), start=1):
            assert quarters(stored.array) == [[2, 0, 0], [0, 2, 0], [0, 0, 2], [0, 0, 0]], orientation
            assert stored.rules == (["m turned upright by EXIF orientation"] if orientation > 1 else [])

    def test_the_picture_a_phone_took_lying_down(self, tmp_path: Path) -> None:
        upright = Image.fromarray(PARTS)
        exif = Image.Exif()
        exif[0x0112] = 6
        upright.save(tmp_path / "upright.jpg", quality=95)
        upright.rotate(90, expand=True).save(tmp_path / "turned.jpg", quality=95, exif=exif)
        one, other = store(tmp_path, "upright.jpg", "turned.jpg", kind="image", size=SIDE)
        np.testing.assert_allclose(one.array.astype(int), other.array, atol=6)

    @pytest.mark.parametrize("orientation", [0, 9])
    def test_an_orientation_that_means_nothing_turns_nothing(self, tmp_path: Path, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(PARTS).save(tmp_path / "a.png", exif=exif)
        decoded = read_image(tmp_path / "a.png", SIDE)
        assert quarters(decoded.array)[0] == [2, 0, 0]
        assert decoded.notes == ()

    def test_damaged_exif_is_noted(self, tmp_path: Path) -> None:
        Image.fromarray(PARTS).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0\1garbage")
        decoded = read_image(tmp_path / "a.png", SIDE)
        assert quarters(decoded.array)[0] == [2, 0, 0]
        assert [str(note) for note in decoded.notes] == ["damaged EXIF not regarded"]

    def test_exif_that_is_cut_off_is_noted_unless_it_says_how_to_turn(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        """Pillow warns on the terminal, and reads what is there."""
        turn, lost = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0), struct.pack("<HHII", 0x010F, 2, 99, 5000)
        exif = b"Exif\0\0II*\0\x08\0\0\0"
        stored = [b"\x01\0" + lost + b"\0" * 4, b"\x02\0" + turn + lost + b"\0" * 4, b"\x05\0" + lost]
        for number, content in enumerate(stored):
            for suffix in ("png", "jpg"):
                Image.fromarray(PARTS).save(tmp_path / f"{number}.{suffix}", exif=exif + content)
                decoded = read_image(tmp_path / f"{number}.{suffix}", SIDE)
                note = "turned upright by EXIF orientation" if number == 1 else "damaged EXIF not regarded"
                assert [str(note) for note in decoded.notes] == [note], (number, suffix)
        assert len(recwarn) == 0


class TestTransparency:
    def test_a_black_shape_on_nothing_lies_on_a_ground(self, tmp_path: Path) -> None:
        glyph = np.zeros((SIDE, SIDE, 4), np.uint8)
        glyph[2:6, 2:6] = (0, 0, 0, 255)
        Image.fromarray(glyph).save(tmp_path / "a.png")
        shape = np.where(glyph[..., 3] == 255, 0, 255)
        (stored,) = store(tmp_path, "a.png", kind="image", size=SIDE)
        np.testing.assert_array_equal(stored.array, np.broadcast_to(shape, (3, SIDE, SIDE)))
        assert stored.rules == ["m composed on white"]
        for ground in ("#0a141e", [10, 20, 30]):
            (stored,) = store(tmp_path, "a.png", kind="image", size=SIDE, background=ground)
            assert stored.array[:, 0, 0].tolist() == [10, 20, 30]
            assert stored.array[:, 4, 4].tolist() == [0, 0, 0]
            assert stored.rules == ["m composed on #0a141e"]
        (stored,) = store(tmp_path, "a.png", kind="image", size=SIDE, background="red")
        assert stored.array[:, 0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize(
        ("mode", "suffix"),
        [
            ("RGBA", "png"),
            ("LA", "png"),
            ("P", "png"),
            ("RGBA", "webp"),
            ("RGBA", "gif"),
            ("RGBA", "tif"),
            ("LA", "tif"),
        ],
    )
    def test_half_of_it_in_every_mode(self, tmp_path: Path, mode: str, suffix: str) -> None:
        pixels = np.full((SIDE, SIDE, 4), (80, 80, 80, 255), np.uint8)
        pixels[:, :4, 3] = 0
        picture = Image.fromarray(pixels)
        picture = picture.quantize() if mode == "P" else picture.convert(mode)
        picture.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        decoded = read_image(tmp_path / f"a.{suffix}", SIDE)
        np.testing.assert_allclose(decoded.array[:, :, :4], 255)
        np.testing.assert_allclose(decoded.array[:, :, 4:], 80, atol=1)

    def test_what_shines_through_is_mixed(self, tmp_path: Path) -> None:
        Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 51)).save(tmp_path / "a.png")
        assert read(tmp_path / "a.png").tolist() == [204] * SIDE

    def test_an_opaque_alpha_changes_nothing_and_is_not_noted(self, tmp_path: Path) -> None:
        Image.fromarray(PARTS).convert("RGBA").save(tmp_path / "alpha.png")
        Image.fromarray(PARTS).save(tmp_path / "plain.png")
        decoded = read_image(tmp_path / "alpha.png", SIDE)
        np.testing.assert_array_equal(decoded.array, read_image(tmp_path / "plain.png", SIDE).array)
        assert decoded.notes == ()

    @pytest.mark.parametrize(("colour", "bits"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
    @pytest.mark.parametrize("with_range", [False, True])
    def test_one_value_that_is_transparent(self, tmp_path: Path, colour: int, bits: int, with_range: bool) -> None:
        """Pillow scales greys of less than 8 bits and colours of more, and leaves the transparent value as it was."""
        values = (COLOURS16 if colour == 2 else RAMP16) >> (16 - bits)
        top = 2**bits - 1
        key = values[0, -1]
        save_png(tmp_path / "a.png", values, colour, bits, key=np.atleast_1d(key).tolist())
        decoded = read_image(tmp_path / "a.png", SIDE, PictureRules((0, top) if with_range else None, (1, 2, 3)))
        is_clear = np.all(values == key, axis=-1) if colour == 2 else values == key
        scaled = np.rint(values * (255 / top))
        shown = np.moveaxis(scaled, -1, 0) if colour == 2 else np.broadcast_to(scaled, (3, SIDE, SIDE))
        expected = np.where(is_clear, np.array([1, 2, 3])[:, None, None], shown)
        np.testing.assert_allclose(decoded.array, expected, atol=1)
        assert decoded.notes[-1].rule == "composed on #010203"

    def test_sixteen_bits_with_alpha(self, tmp_path: Path) -> None:
        alpha = np.full((SIDE, SIDE, 1), 65535, np.uint16)
        alpha[:, :4] = 0
        save_png(tmp_path / "la.png", np.concatenate([RAMP16[..., None] // 16, alpha], axis=-1), colour=4, bits=16)
        array = read(tmp_path / "la.png", range=(0, 4095))
        assert array[:4].tolist() == [255] * 4
        np.testing.assert_allclose(array[4:], RAMP8[0, 4:], atol=1)

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("with_range", [False, True])
    @pytest.mark.parametrize(("extra", "is_premultiplied", "is_seen_through"), [
        ([0], False, False), ([1], True, True), ([2], False, True), ([], False, True),
    ])  # fmt: skip
    def test_a_fourth_sample_of_sixteen_bits_is_what_its_file_says(
        self, tmp_path: Path, order: str, with_range: bool, extra: list[int], is_premultiplied: bool,
        is_seen_through: bool,
    ) -> None:  # fmt: skip
        alpha = np.rint(RAMP16.T / 5 + 13107)
        colours = np.rint(COLOURS16 * (alpha / 65535)[..., None]) if is_premultiplied else COLOURS16
        samples = np.concatenate([colours, alpha[..., None]], axis=-1).astype(np.uint16)
        save_tiff(tmp_path / "a.tif", samples, photometric=2, order=order, extra=extra)
        decoded = read_image(tmp_path / "a.tif", SIDE, PictureRules((0, 65535) if with_range else None))
        share = (alpha / 65535)[..., None] if is_seen_through else 1.0
        expected = COLOURS16 / 257 * share + 255 * (1 - share)
        np.testing.assert_allclose(decoded.array, np.moveaxis(expected, -1, 0), atol=2)
        assert ("composed on white" in [note.rule for note in decoded.notes]) == is_seen_through

    @pytest.mark.parametrize("extra", [0, 1, 2])
    def test_grey_of_eight_bits_with_another_sample(self, tmp_path: Path, extra: int) -> None:
        alpha = np.rint(RAMP8.T / 5 + 51)
        grey = np.rint(RAMP8 * alpha / 255) if extra == 1 else RAMP8
        save_tiff(tmp_path / "a.tif", np.stack([grey, alpha], axis=-1).astype(np.uint8), extra=[extra])
        share = alpha / 255 if extra else 1.0
        expected = RAMP8 * share + 255 * (1 - share)
        for wanted in (None, (0, 255)):
            array = read_image(tmp_path / "a.tif", SIDE, PictureRules(wanted)).array
            np.testing.assert_allclose(array, np.broadcast_to(expected, array.shape), atol=2)


class TestKinds:
    def test_the_first_of_several_is_noted(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
        for suffix in ("gif", "tif", "webp", "png"):
            frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
            decoded = read_image(tmp_path / f"a.{suffix}", SIDE)
            assert decoded.array[0].min() > 240
            assert [str(note) for note in decoded.notes] == ["the first of several pictures taken"]

    def test_a_large_picture_is_read_without_a_word(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)  # of 864; Pillow refuses from twice as many on
        Image.fromarray(PARTS).save(tmp_path / "a.png")
        assert quarters(read_image(tmp_path / "a.png", SIDE).array)[0] == [2, 0, 0]
        assert len(recwarn) == 0

    def test_a_format_that_knows_its_mode_late(self, tmp_path: Path) -> None:
        """Icons for macOS are opened as if they had an alpha channel."""
        Image.fromarray(PARTS).resize((128, 128)).save(tmp_path / "a.icns")
        decoded = read_image(tmp_path / "a.icns", SIDE)
        assert quarters(decoded.array) == [[2, 0, 0], [0, 2, 0], [0, 0, 2], [0, 0, 0]]
        assert decoded.notes == ()

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"])
    def test_every_mode_of_eight_bits_is_read_as_it_looks(self, tmp_path: Path, mode: str) -> None:
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        pixels[:, 4:] = 255
        picture = Image.fromarray(pixels)
        if mode == "LAB":
            picture = Image.merge("LAB", [picture.convert("L"), *[Image.new("L", (SIDE, SIDE), 128)] * 2])
            picture.info.clear()
        else:
            picture = picture.convert(mode)
        picture.save(tmp_path / "a.tif")
        decoded = read_image(tmp_path / "a.tif", SIDE)
        assert decoded.notes == ()
        np.testing.assert_allclose(decoded.array, np.moveaxis(pixels, -1, 0), atol=3)

    def test_the_check_counts_each_rule(self, tmp_path: Path) -> None:
        Image.fromarray(RAMP16).save(tmp_path / "deep.png")
        Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 9)).save(tmp_path / "clear.png")
        save_picture(tmp_path / "plain.png")
        store(tmp_path, "deep.png", "clear.png", "plain.png", kind="image", size=SIDE)
        options = ManifestConfig.model_validate(read_description(tmp_path / "mine.yaml"))
        report = examine(Manifest(options), RawFolder(tmp_path))
        assert {rule: number for rule, (number, _) in problem_summary(report).items()} == {
            "m scaled from 16 bit": 2,
            "m composed on white": 2,
        }
        assert report["num_faults"] == 0

    def test_data_sets_with_a_name_go_by_the_same_rules(self, tmp_path: Path) -> None:
        Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)).save(tmp_path / "a.png")
        decoded = ImageFile("image", SIDE).read(RawFolder(tmp_path), "a.png")
        assert decoded.array.min() == 255

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ({"range": [5, 5]}, r"range must be \[low, high\] with low < high, got \[5, 5\]"),
            ({"range": [0]}, "range"),
            ({"background": "blueish"}, r"background must be a colour's name, '#rrggbb' or .*, got 'blueish'"),
            ({"background": [0, 0, 256]}, "background"),
        ],
    )
    def test_settings_that_are_none(self, tmp_path: Path, column: dict[str, Any], message: str) -> None:
        save_picture(tmp_path / "a.png")
        with pytest.raises(ConfigError, match=message):
            store(tmp_path, "a.png", kind="image", **column)
