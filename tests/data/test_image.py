import contextlib
import io
import os
import shutil

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import glocal.data.image
from glocal.data.image import FORMATS, IMAGE_ENDINGS, UnreadableImageError, decode_image, find_images, read_image


def save(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def pixel(path, at=(0, 0)):
    image = read_image(path)
    assert image.mode == "RGB"
    return image.getpixel(at)


@pytest.fixture
def red():
    return Image.new("RGB", (8, 6), (200, 0, 0))


class TestConversion:
    def test_rgb_is_unchanged(self, tmp_path):
        pixels = np.random.RandomState(0).randint(0, 256, (5, 7, 3), dtype=np.uint8)
        path = save(tmp_path, Image.fromarray(pixels), "a.png")
        assert np.array_equal(np.asarray(read_image(path)), pixels)

    @pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "LAB"])
    def test_every_mode_is_read(self, tmp_path, red, mode):
        image = Image.new("LAB", red.size, (128, 128, 128)) if mode == "LAB" else red.convert(mode)
        image = read_image(save(tmp_path, image, "a.tif"))
        assert image.mode == "RGB"
        assert image.size == (8, 6)

    def test_cmyk_keeps_its_colour(self, tmp_path, red):
        red_channel, green, blue = pixel(save(tmp_path, red.convert("CMYK"), "a.jpg", quality=95))
        assert red_channel > 180
        assert green < 30
        assert blue < 30

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_transparent_is_white(self, tmp_path, mode):
        clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
        assert pixel(save(tmp_path, clear, "a.png")) == (255, 255, 255)

    def test_half_transparent_is_mixed(self, tmp_path):
        path = save(tmp_path, Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "a.png")
        assert pixel(path) == (127, 127, 127)

    def test_transparent_palette_entry_is_white(self, tmp_path):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 0, 0])
        image.putdata([0, 1])
        path = save(tmp_path, image, "a.png", transparency=0)
        assert pixel(path) == (255, 255, 255)
        assert pixel(path, (1, 0)) == (200, 0, 0)

    @pytest.mark.parametrize("ending", ["png", "tif"])
    def test_16_bit_is_scaled_not_clipped(self, tmp_path, ending):
        grey = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
        path = save(tmp_path, Image.fromarray(grey), f"a.{ending}")
        assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]

    @pytest.mark.parametrize(("values", "expected"), [([0, 0.5, 1], [0, 128, 255]), ([0, 64, 255], [0, 64, 255])])
    def test_float_pixels(self, tmp_path, values, expected):
        path = save(tmp_path, Image.fromarray(np.array([values], dtype=np.float32)), "a.tif")
        assert np.asarray(read_image(path))[0, :, 1].tolist() == expected

    def test_exif_rotation_is_applied(self, tmp_path):
        image = Image.new("RGB", (8, 4), "black")
        image.paste((255, 255, 255), (0, 0, 4, 4))  # left half white
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by 90° clockwise: the left half comes to the top
        path = save(tmp_path, image, "a.jpg", exif=exif, quality=95)
        upright = read_image(path)
        assert upright.size == (4, 8)
        assert upright.getpixel((2, 1))[0] > 200
        assert upright.getpixel((2, 6))[0] < 50

    @pytest.mark.parametrize("size", [(1, 1), (20000, 20), (1, 3000)])
    def test_odd_sizes(self, tmp_path, size):
        assert read_image(save(tmp_path, Image.new("RGB", size), "a.png")).size == size


class TestUnreadable:
    def reason(self, path):
        with pytest.raises(UnreadableImageError) as caught:
            read_image(path)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        return caught.value.reason

    def test_missing(self, tmp_path):
        assert self.reason(tmp_path / "no.png") == "no such file"

    def test_pattern_of_no_file(self, tmp_path):
        assert self.reason(tmp_path / "no*.png") == "no file matches"

    def test_folder_without_images(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        assert self.reason(tmp_path) == "the folder holds no images"

    def test_folder_of_images(self, tmp_path, red):
        save(tmp_path, red, "a.png")
        assert self.reason(tmp_path) == "a folder, not a file"

    @pytest.mark.skipif(os.name != "posix", reason="reads a device")
    def test_neither_file_nor_folder(self):
        assert self.reason("/dev/null") == "not a file"

    def test_zero_bytes(self, tmp_path):
        (tmp_path / "a.png").touch()
        assert self.reason(tmp_path / "a.png") == "the file is empty"

    def test_text(self, tmp_path):
        (tmp_path / "a.jpg").write_text("hello, I am not an image")
        assert self.reason(tmp_path / "a.jpg") == "not an image"

    @pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "gif", "bmp"])
    def test_truncated(self, tmp_path, ending):
        noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
        path = save(tmp_path, Image.fromarray(noise), f"a.{ending}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "image" in self.reason(path)

    def test_decompression_bomb(self, tmp_path, monkeypatch):
        path = save(tmp_path, Image.new("1", (100, 100)), "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        assert "decompression bomb" in self.reason(path)

    def test_grey_values_without_a_known_white(self, tmp_path):
        path = save(tmp_path, Image.fromarray(np.array([[-3, 70000]], dtype=np.int32)), "a.tif")
        assert "grey values from -3 to 70000" in self.reason(path)

    def test_survives_pickling(self):
        import pickle

        error = pickle.loads(pickle.dumps(UnreadableImageError("a.png", "broken")))
        assert (error.path, error.reason) == ("a.png", "broken")


class TestFindImages:
    @pytest.fixture
    def folder(self, tmp_path, red):
        for name in ["b.png", "a.JPG", "sub/c.png"]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            red.save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("x")
        shutil.copy(tmp_path / "b.png", tmp_path / ".hidden.png")
        return tmp_path

    def names(self, folder, *sources):
        return [path.removeprefix(f"{folder}/") for path in find_images([f"{folder}/{source}" for source in sources])]

    def test_folder_stands_for_its_images(self, folder):
        assert self.names(folder, "") == ["a.JPG", "b.png", "sub/c.png"]

    def test_glob(self, folder):
        assert self.names(folder, "*.png") == ["b.png"]
        assert self.names(folder, "**/*.png") == ["b.png", "sub/c.png"]

    def test_order_given_without_doubles(self, folder):
        assert self.names(folder, "sub/c.png", "b.png", "sub/c.png") == ["sub/c.png", "b.png"]

    def test_what_stands_for_nothing_is_kept(self, folder):
        assert self.names(folder, "none.png", "*.webp") == ["none.png", "*.webp"]

    def test_file_whose_name_looks_like_a_pattern(self, folder, red):
        red.save(folder / "x[1].png")
        assert self.names(folder, "x[1].png") == ["x[1].png"]

    def test_hidden_ones_are_left_out_and_others_named(self, folder, red, caplog):
        for name in (".thumbnails", "sub/@eaDir", "__MACOSX/sub"):
            (folder / name).mkdir(parents=True)
            red.save(folder / name / "x.png")
        assert self.names(folder, "") == self.names(folder, "**/*.[pJ]*") == ["a.JPG", "b.png", "sub/c.png"]
        assert "left out 1 file that is no image: 1 .txt" in caplog.text

    def test_extra_is_named_where_it_would_help(self, folder, monkeypatch, caplog):
        monkeypatch.setattr(glocal.data.image, "image_endings", lambda: glocal.data.image.IMAGE_ENDINGS)
        for name in ("1.heic", "2.HEIC", "3.jxl"):
            (folder / name).write_bytes(b"x")
        self.names(folder, "")
        assert "2 .heic (pip install 'glocal[photos]' to read them)" in caplog.text

    @pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
    @pytest.mark.parametrize("source", ["", "**/*.png", "**"])
    def test_links_in_a_circle(self, folder, source):
        for place in ("l1", "l2", "sub/l1", "sub/l2"):
            os.symlink(folder, folder / place)
        expected = {"": ["a.JPG", "b.png", "sub/c.png"], "**/*.png": ["b.png", "sub/c.png"]}
        assert self.names(folder, source) == expected.get(source, ["a.JPG", "b.png", "notes.txt", "sub/c.png"])

    def test_patterns_relative_to_the_current_folder(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        assert find_images(["**/*.png"]) == find_images(["./**/*.png"]) == ["b.png", "sub/c.png"]
        assert find_images(["s*/**/c.*"]) == ["sub/c.png"]


class TestFormats:
    @pytest.mark.parametrize("kind", ["EPS", "ICNS", "PCX", "TGA", "JPEG2000", "PDF", "SGI", "IM", "PPM"])
    def test_others_are_refused_whatever_the_ending(self, tmp_path, red, kind, monkeypatch):
        monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: pytest.fail("a program was run"))
        path = tmp_path / "a.png"
        red.save(path, kind)
        for read in (lambda: read_image(path), lambda: decode_image(path.read_bytes(), "x")):
            with pytest.raises(UnreadableImageError, match="not an image"):
                read()

    def test_endings_of_a_folder_scan_are_read(self, tmp_path, red):
        """Those that Pillow writes; the extra's are tested with it."""
        Image.init()
        written = [ending for ending in sorted(IMAGE_ENDINGS) if Image.EXTENSION[ending] in Image.SAVE]
        assert len(written) == len(IMAGE_ENDINGS)
        for ending in written:
            assert read_image(save(tmp_path, red, f"a{ending}")).size == red.size

    def test_every_format_has_an_ending(self):
        Image.init()
        assert {Image.EXTENSION[ending] for ending in IMAGE_ENDINGS} == set(FORMATS)

    @pytest.mark.parametrize(
        ("start", "reason"),
        [
            (
                b"%!PS-Adobe-3.0 EPSF-3.0",
                r"not an image in a format that is read \(PostScript or PDF; export the page as PNG\)",
            ),
            (b"8BPS\0\1", r"not an image in a format that is read \(Photoshop"),
            (b"\xff\x4f\xff\x51\0\x2f", r"not an image in a format that is read \(JPEG 2000"),
            (b'<?xml version="1.0"?><svg/>', r"not an image in a format that is read \(SVG"),
        ],
    )
    def test_known_others_are_called_by_their_name(self, start, reason):
        with pytest.raises(UnreadableImageError, match=f"^x.png: {reason}"):
            decode_image(start + bytes(100), "x.png")


class TestContentOfAFile:
    def test_is_read_as_the_file_is(self, tmp_path, red):
        path = save(tmp_path, red.convert("L"), "a.png")
        assert np.array_equal(np.asarray(decode_image(path.read_bytes(), "a")), np.asarray(read_image(path)))

    @pytest.mark.parametrize(("content", "reason"), [(b"", "the file is empty"), (b"no image", "not an image")])
    def test_error_has_the_name_given(self, content, reason):
        with pytest.raises(UnreadableImageError, match=f"^shard.tar: a.png: {reason}$"):
            decode_image(content, "shard.tar: a.png")


@pytest.mark.parametrize("compression", ["tiff_deflate", "tiff_lzw", "jpeg"])
def test_a_broken_tiff_is_one_error_and_nothing_else(compression, capfd):
    """libtiff would write a line of its own to stderr, past every log."""
    file = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)).save(
        file, "TIFF", compression=compression
    )
    content = bytearray(file.getvalue())
    content[300:400] = bytes(byte ^ 0x55 for byte in content[300:400])
    with contextlib.suppress(UnreadableImageError):  # some are decoded all the same
        decode_image(bytes(content), "x.tif")
    assert capfd.readouterr() == ("", "")
