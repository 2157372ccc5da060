"""Masks of files: their values are kept, and a value that is no class is named."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from glocal.data.image import UnreadableImageError
from glocal.data.masks import IGNORE, ArrayMap, Coding, MaskFile, distinct_colors, read_mask, unpack

VALUES = np.array([[0, 1, 2], [3, 7, 255]], np.uint8)


def save(path, pixels, **options):
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return str(path)


def png(path, bits, colour_type, rows, size):
    """Write a PNG of a kind that Pillow does not write. rows: the bytes of each."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return str(path)


def palette_mask(values, colors):
    image = Image.fromarray(values).convert("P")
    image = Image.frombytes("P", image.size, values.tobytes())
    image.putpalette([channel for color in colors for channel in color])
    return image


class TestReadMask:
    @pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
    def test_8_bit_values_are_kept(self, tmp_path, ending):
        assert np.array_equal(read_mask(save(tmp_path / f"a.{ending}", VALUES)), VALUES)

    @pytest.mark.parametrize("ending", ["png", "tif"])
    def test_16_bit_values_are_kept(self, tmp_path, ending):
        values = np.array([[0, 1, 255], [256, 40_000, 65_535]], np.uint16)
        raw = read_mask(save(tmp_path / f"a.{ending}", values))
        assert raw.dtype == np.uint16
        assert np.array_equal(raw, values)

    def test_32_bit_values_are_kept(self, tmp_path):
        values = np.array([[-3, 70_000]], np.int32)
        assert np.array_equal(read_mask(save(tmp_path / "a.tif", values)), values)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_a_palette_keeps_its_indices(self, tmp_path, bits):
        values = (np.arange(6) % 2**bits).astype(np.uint8).reshape(2, 3)
        path = save(tmp_path / "a.png", palette_mask(values, distinct_colors(2**bits)), bits=bits)
        assert np.array_equal(read_mask(path), values)

    def test_a_palette_gives_its_colours(self, tmp_path):
        path = save(tmp_path / "a.png", palette_mask(VALUES % 4, distinct_colors(4)))
        assert np.array_equal(read_mask(path, by_color=True), np.array(distinct_colors(4), np.uint8)[VALUES % 4])

    @pytest.mark.parametrize(("bits", "row", "values"), [(2, 0b00011011, [0, 1, 2, 3]), (4, 0x2F, [2, 15])])
    def test_grey_of_a_few_bits_is_not_spread_over_255(self, tmp_path, bits, row, values):
        path = png(tmp_path / "a.png", bits, 0, [bytes([row])], (len(values), 1))
        assert read_mask(path).tolist() == [values]

    def test_black_and_white_is_0_and_1(self, tmp_path):
        path = save(tmp_path / "a.png", Image.fromarray(VALUES).point(lambda value: 255 * (value > 1), "1"))
        raw = read_mask(path)
        assert raw.dtype == np.uint8
        assert raw.tolist() == [[0, 0, 1], [1, 1, 1]]
        assert read_mask(path, by_color=True)[0, 2].tolist() == [255, 255, 255]

    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_an_opaque_channel_is_dropped(self, tmp_path, mode):
        raw = read_mask(save(tmp_path / "a.png", Image.fromarray(VALUES).convert(mode)))
        assert np.array_equal(raw if mode == "LA" else raw[..., 0], VALUES)

    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_transparent_pixels_are_refused(self, tmp_path, mode):
        image = Image.fromarray(VALUES).convert(mode)
        image.putalpha(Image.new("L", image.size, 254))
        with pytest.raises(UnreadableImageError, match=r"a\.png: the mask has transparent pixels"):
            read_mask(save(tmp_path / "a.png", image))

    def test_it_is_turned_as_its_exif_says(self, tmp_path):
        exif = Image.Exif()
        exif[0x112] = 6
        turned = read_mask(save(tmp_path / "a.png", VALUES, exif=exif))
        assert np.array_equal(turned, np.rot90(VALUES, -1))

    def test_broken_metadata_is_left_out_and_2_bits_are_still_2_bits(self, tmp_path):
        path = tmp_path / "a.png"
        png(path, 2, 0, [bytes([0b00011011])], (4, 1))
        content = path.read_bytes()
        place = content.index(b"IDAT") - 4
        path.write_bytes(content[:place] + struct.pack(">I", 3) + b"gAMAabc" + b"\0\0\0\0" + content[place:])
        assert read_mask(path).tolist() == [[0, 1, 2, 3]]

    @pytest.mark.parametrize(
        ("name", "options"),
        [("a.jpg", {}), ("a.webp", {"lossless": True}), ("a.avif", {}), ("a.tif", {"compression": "jpeg"})],
    )
    def test_formats_that_change_labels_are_refused(self, tmp_path, name, options):
        with pytest.raises(UnreadableImageError, match="compression may change labels: save masks as PNG"):
            read_mask(save(tmp_path / name, VALUES, **options))

    def test_floating_point_is_refused(self, tmp_path):
        with pytest.raises(UnreadableImageError, match="a mask of the kind F"):
            read_mask(save(tmp_path / "a.tif", VALUES.astype(np.float32)))

    @pytest.mark.parametrize(("kind", "length"), [(2, 6), (4, 4), (6, 8)], ids=["rgb", "la", "rgba"])
    def test_16_bits_in_several_channels_are_refused(self, tmp_path, kind, length):
        path = png(tmp_path / "a.png", 16, kind, [b"\0\5" * (length // 2 - 1) + b"\xff\xff"], (1, 1))
        with pytest.raises(UnreadableImageError, match="16 bits in each of several channels"):
            read_mask(path)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(None, "no such file"), (b"", "the file is empty"), (b"text", "not an image"), (b"\x89PNG\r\n\x1a\n", "")],
    )
    def test_what_is_no_image_is_named(self, tmp_path, content, reason):
        path = tmp_path / "broken.png"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UnreadableImageError, match=f"broken.png: .*{reason}"):
            read_mask(path)

    def test_a_mask_that_lacks_its_end_is_refused(self, tmp_path):
        pixels = np.random.RandomState(0).randint(0, 9, (64, 64), dtype=np.uint8)
        path = tmp_path / "a.png"
        save(path, pixels)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(UnreadableImageError, match=r"a\.png: broken image"):
            read_mask(path)


class TestCoding:
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
    def test_indices(self, kind):
        coding = Coding.of_indices([7, 2, 40], ignored=[0, 255])
        labels = coding.decode(np.array([[7, 2], [255, 0], [40, 7]], kind), "a.png")
        assert labels.dtype == np.int32
        assert labels.tolist() == [[0, 1], [IGNORE, IGNORE], [2, 0]]

    def test_large_values(self):
        coding = Coding.of_indices([300, 70_000])
        assert coding.decode(np.array([[70_000, 300]], np.int32), "a.png").tolist() == [[1, 0]]

    @pytest.mark.parametrize("raw", [np.uint8([[0, 9]]), np.uint16([[0, 40_000]]), np.int32([[0, -1]])], ids=str)
    def test_an_unknown_value_is_named_with_its_number_of_pixels(self, raw):
        reason = rf"a\.png: the mask has the value {raw[0, 1]:,} on 1 pixel, which is no class"
        with pytest.raises(UnreadableImageError, match=reason):
            Coding.of_indices([0, 1]).decode(raw, "a.png")

    def test_several_unknown_values_and_what_to_do(self):
        coding = Coding.of_indices([0, 1], hint="do this")
        with pytest.raises(UnreadableImageError, match=r"5 on 2 pixels.*and 2 further values too \(do this\)"):
            coding.decode(np.uint8([[5, 5, 6, 9, 0]]), "a.png")

    def test_colours(self):
        coding = Coding.of_colors([[0, 0, 0], [255, 0, 128], [0, 255, 1]], ignored=[[255, 255, 255]])
        raw = np.uint8([[[255, 0, 128], [0, 255, 1]], [[255, 255, 255], [0, 0, 0]]])
        assert coding.decode(raw, "a.png").tolist() == [[1, 2], [IGNORE, 0]]

    def test_an_unknown_colour_is_named(self):
        coding = Coding.of_colors([[0, 0, 0], [255, 0, 128]])
        with pytest.raises(UnreadableImageError, match=r"a\.png: the mask has the colour 255 0 129 on 1 pixel"):
            coding.decode(np.uint8([[[0, 0, 0], [255, 0, 129]]]), "a.png")

    def test_three_equal_channels_are_one(self):
        assert Coding.of_indices([0, 1, 2, 3, 7, 255]).decode(np.stack([VALUES] * 3, -1), "").tolist() == [
            [0, 1, 2],
            [3, 4, 5],
        ]

    def test_colours_without_a_palette_are_refused(self):
        raw = np.stack([VALUES, VALUES, VALUES + 1], -1)
        with pytest.raises(UnreadableImageError, match="the mask has colours, but the class list has none"):
            Coding.of_indices([0, 1, 2, 3]).decode(raw, "a.png")

    def test_16_bit_values_are_no_colours(self):
        with pytest.raises(UnreadableImageError, match="16-bit values, but the class list has colours"):
            Coding.of_colors([[0, 0, 0]]).decode(np.uint16([[0]]), "a.png")

    def test_the_same_coding_is_small_in_many_masks(self):
        coding = Coding.of_colors(distinct_colors(150))
        coding.decode(np.zeros((1, 1, 3), np.uint8), "")  # makes its table
        masks = [MaskFile(f"{number:05}.png", coding) for number in range(1000)]
        assert len(pickle.dumps(masks)) < 60_000
        assert pickle.loads(pickle.dumps(masks)) == masks


class TestMaskFile:
    def test_labels(self, tmp_path):
        mask = MaskFile(save(tmp_path / "a.png", VALUES), Coding.of_indices([0, 1, 2, 3, 7], [255]))
        assert mask.load((2, 3)).tolist() == [[0, 1, 2], [3, 4, IGNORE]]

    def test_another_size_than_the_image_is_refused(self, tmp_path):
        mask = MaskFile(save(tmp_path / "a.png", VALUES), Coding.of_indices(range(256)))
        with pytest.raises(UnreadableImageError, match=r"a\.png: the mask is 3×2 pixels, its image 2×3"):
            mask.load((3, 2))

    def test_its_content_is_its_name_in_any_folder(self):
        assert MaskFile("/here/a.png", Coding(())).content() == MaskFile("there/a.png", Coding(())).content() == "a.png"


def test_distinct_colors_are_those_of_voc_and_all_different():
    colors = distinct_colors(2000)
    assert colors[:3] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert colors[20] == [0, 64, 128]
    assert len(set(map(tuple, colors))) == 2000


@pytest.mark.parametrize("color", [[0, 0, 0], [1, 2, 3], [255, 255, 255]])
def test_a_packed_colour_is_unpacked(color):
    ((value, _),) = Coding.of_colors([color]).values
    assert unpack(value) == color


def test_an_array_is_a_map_of_its_size():
    labels = np.array([[0, IGNORE]], np.int8)
    assert ArrayMap(labels).load((1, 2)).dtype == np.int32
    with pytest.raises(UnreadableImageError, match="the mask is 2×1 pixels, its image 1×2"):
        ArrayMap(labels).load((2, 1))
