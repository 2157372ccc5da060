"""Photos whose pixels are sound are read: with broken metadata, without their last bytes, of the extra's formats."""

import io
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import glocal.data.image
from glocal.data.image import UnreadableImageError, decode_image, read_image, set_strict
from glocal.data.repair import ended

HEIC = Path(__file__).with_name(
    "turned.heic"
)  # 48 × 32, the left half white; to be turned by 90°, as its EXIF says too

NEEDED = "needs the extra [photos]"


def smooth(width=200, height=160):
    """Random colours without sharp edges."""
    dots = np.random.RandomState(0).randint(0, 256, (height // 20, width // 20, 3), np.uint8)
    return Image.fromarray(dots).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def segment(marker, payload):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(payload) + 2) + payload


def exif(*entries, orientation=6):
    """An EXIF block of (tag, type, count, four bytes), with the orientation after them."""
    entries = [*entries, (0x112, 3, 1, struct.pack("<HH", orientation, 0))]
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in sorted(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


def jpeg_with(*segments, **options):
    jpeg = encoded(smooth(), **options)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def png_with(kind, content, checksum=None):
    """A PNG with one more chunk before its pixels."""
    png = encoded(smooth(), "PNG")
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return png[:33] + struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum) + png[33:]


class TestMetadata:
    @pytest.mark.parametrize(
        "block",
        {
            "resolution of text": exif((0x11A, 2, 4, b"abc\0")),
            "compression of text": exif((0x103, 2, 4, b"abc\0")),
            "width below zero": exif((0x100, 9, 1, struct.pack("<i", -5))),
            "width without bound": exif((0x100, 11, 1, struct.pack("<f", 1e30))),
            "bits of text": exif((0x102, 2, 4, b"8 8\0")),
            "place of text": exif((0x8825, 2, 4, b"abc\0")),
            "rational over zero": exif((0x9204, 10, 1, struct.pack("<I", 8))),
            "two headers": b"Exif\0\0" + exif(),
        }.items(),
        ids=lambda item: item[0],
    )
    def test_photo_is_turned_whatever_else_exif_says(self, block):
        photo = decode_image(jpeg_with(segment(0xE1, block[1])), "x")
        upright = decode_image(encoded(smooth()), "y").transpose(Image.Transpose.ROTATE_270)
        assert np.array_equal(np.asarray(photo), np.asarray(upright))

    @pytest.mark.parametrize("orientation", range(10))
    def test_all_orientations(self, orientation):
        image = smooth()
        turned = encoded(image, "PNG", exif=exif(orientation=orientation))
        turns = [None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"]
        turns += ["TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90", None]
        turn = turns[orientation]
        expected = image if turn is None else image.transpose(Image.Transpose[turn])
        assert np.array_equal(np.asarray(decode_image(turned, "x")), np.asarray(expected))

    @pytest.mark.parametrize(
        "content",
        {
            "byte order": jpeg_with(segment(0xE1, b"Exif\0\0XX*\0" + exif()[10:])),
            "offset": jpeg_with(segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<I", 2**31))),
            "empty": jpeg_with(segment(0xE1, b"Exif\0\0")),
            "JFIF cut short": jpeg_with(segment(0xE0, b"JFIF\0")),
            "Photoshop cut short": jpeg_with(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4")),
            "Adobe cut short": jpeg_with(segment(0xEE, b"Adobe")),
            "profile in no part": jpeg_with(segment(0xE2, b"ICC_PROFILE\0")),
            "pictures that are not there": jpeg_with(segment(0xE2, b"MPF\0II*\0\xff\xff\xff\x7f")),
        }.items(),
        ids=lambda item: item[0],
    )
    def test_jpeg(self, content):
        assert np.array_equal(
            np.asarray(decode_image(content[1], "x")), np.asarray(decode_image(encoded(smooth()), ""))
        )

    @pytest.mark.parametrize(
        "content",
        {
            "inflated text": png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000))),
            "EXIF that is no hexadecimal number": png_with(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nzzzz"),
            "checksum of text": png_with(b"tEXt", b"a\0b", checksum=1),
            "checksum of EXIF": png_with(b"eXIf", exif()[6:], checksum=1),
            "size of pixels": png_with(b"pHYs", b"\0"),
            "gamma": png_with(b"gAMA", b""),
        }.items(),
        ids=lambda item: item[0],
    )
    def test_png(self, content):
        assert np.array_equal(np.asarray(decode_image(content[1], "x")), np.asarray(smooth()))

    def test_the_rest_of_exif_is_kept_where_a_neighbour_is_broken(self):
        """The photo is still turned."""
        png = png_with(b"eXIf", exif()[6:])
        png = png[:33] + png_with(b"tEXt", b"a\0b", checksum=1)[33:48] + png[33:]
        assert decode_image(png, "x").size == (160, 200)
        jpeg = jpeg_with(segment(0xE1, exif()), segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"))
        assert decode_image(jpeg, "x").size == (160, 200)

    def test_a_broken_picture_stays_refused(self):
        png = encoded(smooth(), "PNG")
        for content in (png[:500], png[:33], png[:100] + bytes(300) + png[400:], b"\xff\xd8\xff", b"\xff\xd8\xff\xda"):
            with pytest.raises(UnreadableImageError, match=r"^x: "):
                decode_image(content, "x")


OPTIONS = [
    {},
    {"progressive": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3},
    {"quality": 95, "subsampling": 0},
    {"quality": 95, "progressive": True},
]


class TestLastBytes:
    @pytest.fixture(autouse=True)
    def nothing_noted(self, monkeypatch):
        monkeypatch.setattr(glocal.data.image, "_noted", set())
        monkeypatch.delenv("GLOCAL_STRICT", raising=False)

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_nearly_all_pixels_are_as_they_were(self, mode, options, caplog):
        whole = encoded(smooth(400, 300).convert(mode), **options)
        before = np.asarray(decode_image(whole, "x")).astype(int)
        for missing in (1, 2, 3):
            image = np.asarray(decode_image(whole[:-missing], f"{missing}.jpg")).astype(int)
            assert (np.abs(image - before).max(-1) > 8).mean() < 0.02
        assert "3.jpg: lacks its last bytes" in caplog.text

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
    def test_more_is_refused(self, options, share, caplog):
        for image in (smooth(400, 300), Image.new("RGB", (400, 300)), smooth(64, 64)):
            whole = encoded(image, **options)
            pixels = len(whole) - whole.index(b"\xff\xda")
            with pytest.raises(UnreadableImageError, match=r"truncated|broken"):
                decode_image(whole[: len(whole) - int(share * pixels)], "x")
        assert not caplog.text

    def test_strict_refuses_it(self):
        cut = encoded(smooth())[:-2]
        set_strict(True)
        with pytest.raises(UnreadableImageError, match="truncated"):
            decode_image(cut, "x")
        set_strict(False)
        assert decode_image(cut, "x").size == (200, 160)

    def test_a_file_is_noted_once_and_many_are_not_all_noted(self, caplog):
        cut = encoded(smooth())[:-2]
        for number in (0, *range(40), 0):
            decode_image(cut, f"{number}.jpg")
        assert len(caplog.records) == glocal.data.image.MOST_NOTES + 1
        assert len({record.message for record in caplog.records}) == len(caplog.records)
        assert {record.levelno for record in caplog.records} == {logging.WARNING}

    def test_odd_metadata_too(self):
        assert decode_image(jpeg_with(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"))[:-2], "x").size == (200, 160)

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP"])
    def test_other_formats_are_refused(self, kind):
        content = encoded(smooth(), kind)
        with pytest.raises(UnreadableImageError):
            decode_image(content[: int(0.98 * len(content))], "x")


class TestFilesThatTakeTooMuch:
    @pytest.mark.timeout(60)
    def test_a_run_of_filling_bytes_is_passed_once(self):
        """Each of them could begin a marker: a search that looked ahead from every one would take half an hour."""
        with pytest.raises(UnreadableImageError):
            decode_image(jpeg_with()[:2] + b"\xff" * 1_000_000 + b"\0", "x")

    def test_a_second_size_in_the_file_is_not_believed(self):
        cut = encoded(smooth(), progressive=True)[:-20]
        large = segment(0xC2, b"\x08" + struct.pack(">HH", 65_000, 65_000) + b"\x01\x01\x11\x00")  # 4 GB of pixels
        assert ended(cut, (200, 160)) is not None
        assert ended(cut[:2] + large + cut[2:] + large, (200, 160)) is None

    def test_limits_hold_for_what_is_mended_too(self):
        """Pillow cannot open the file as it is, so that its pixels are counted in what is left without metadata."""
        content = bytearray(jpeg_with(segment(0xE0, b"JFIF\0")))
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
        with pytest.raises(UnreadableImageError, match="more pixels than Pillow's limit"):
            decode_image(bytes(content), "x")


class TestPhotos:
    def test_heic_is_read_upright(self):
        pytest.importorskip("pi_heif", reason=NEEDED)
        image = read_image(HEIC)
        assert image.size == (32, 48)
        assert np.abs(np.array(image.getpixel((16, 4))) - 250).max() < 4
        assert np.abs(np.array(image.getpixel((16, 44))) - (200, 30, 40)).max() < 4

    def test_broken_heic(self):
        pytest.importorskip("pi_heif", reason=NEEDED)
        content = HEIC.read_bytes()
        for part in (content[:300], content[:-20], content[:100] + bytes(100) + content[200:]):
            with pytest.raises(UnreadableImageError, match="x: broken image"):
                decode_image(part, "x")

    def test_jpeg_xl_is_read_upright(self):
        pylibjxl = pytest.importorskip("pylibjxl", reason=NEEDED)
        jpeg = jpeg_with(segment(0xE1, exif()))
        photo, expected = decode_image(pylibjxl.jpeg_to_jxl(jpeg), "x"), decode_image(jpeg, "x")
        assert photo.size == (160, 200)
        assert np.abs(np.asarray(photo).astype(int) - np.asarray(expected)).max() <= 4
        grey = pylibjxl.encode(np.asarray(smooth().convert("L"))[..., None], lossless=True)
        assert np.array_equal(np.asarray(decode_image(grey, "x").getchannel(0)), np.asarray(smooth().convert("L")))

    def test_broken_jpeg_xl(self):
        pylibjxl = pytest.importorskip("pylibjxl", reason=NEEDED)
        content = pylibjxl.encode(np.asarray(smooth()))
        for part in (content[:20], content[:-20], content[: len(content) // 2]):
            with pytest.raises(UnreadableImageError, match=r"x: broken image|x: not an image"):
                decode_image(part, "x")

    def test_size_is_known_before_a_pixel_is_decoded(self, monkeypatch):
        pylibjxl = pytest.importorskip("pylibjxl", reason=NEEDED)
        pytest.importorskip("pi_heif", reason=NEEDED)
        for content in (pylibjxl.encode(np.asarray(smooth())), HEIC.read_bytes()):
            with pytest.raises(UnreadableImageError, match="too large for me"):
                decode_image(content, "x", lambda image: f"{image.size} too large for me")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
        for content in (pylibjxl.encode(np.asarray(smooth())), HEIC.read_bytes()):
            with pytest.raises(UnreadableImageError, match="decompression bombs"):
                decode_image(content, "x")

    @pytest.mark.parametrize("start", [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\xff\x0a\0\0", b"\0\0\0\x0cJXL \r\n"])
    def test_the_extra_is_named_where_it_is_missing(self, start, monkeypatch):
        monkeypatch.setattr(glocal.data.image, "formats", lambda: glocal.data.image.FORMATS)
        with pytest.raises(UnreadableImageError, match=r"\((HEIC|JPEG XL); pip install 'glocal\[photos\]'\)"):
            decode_image(start + bytes(100), "x")

    def test_endings_of_the_extra_are_images(self):
        pytest.importorskip("pi_heif", reason=NEEDED)
        assert glocal.data.image.is_image_name("IMG_0001.HEIC")
        assert {"HEIF"} <= set(glocal.data.image.formats())
