"""EXIF orientations against boxes and segments."""

import io
import struct
import zlib

import msgspec
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from glocal.data.image import StoredImage, read_image
from glocal.data.objects import Objects, Runs
from glocal.data.orientation import Head, head_of, heads_of, settled, turned
from glocal.data.segments import runs_of_mask
from pictures import box_seen, picture, save

SIZE = (6, 9)
BOX = (1, 2, 5, 4)
ORIENTATIONS = range(1, 9)


def objects_of(stored):
    """The object that is seen in a stored picture, with its mask as run lengths, and as a polygon."""
    x1, y1, x2, y2 = box = box_seen(stored, (255, 0, 0))
    size = stored.size[::-1]
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    corners = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    segments = msgspec.json.encode(Runs(size, runs_of_mask(mask))), msgspec.json.encode(corners)
    boxes = np.array([box, box], np.float64)
    return Objects(boxes, np.arange(2), np.zeros(2, bool), np.full(2, float(mask.sum())), segments, size)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_boxes_and_segments_lie_where_the_upright_image_shows_them(tmp_path, orientation, ending):
    file = tmp_path / f"a.{ending}"
    stored = save(file, picture(SIZE, [BOX]), orientation, **({"lossless": True} if ending == "webp" else {}))
    head = head_of(str(file))
    assert head == (stored.size[::-1], orientation)
    assert head.upright == SIZE
    found = turned(objects_of(stored), head.size, orientation)
    upright = read_image(file)
    assert found.size == upright.size[::-1] == SIZE
    assert found.boxes.tolist() == [list(BOX)] * 2
    shown = np.asarray(upright)[..., 0] == 255
    assert np.array_equal(found.masks(SIZE), [shown, shown])


def png_with_exif_at_its_end():
    content = io.BytesIO()
    picture(SIZE, [BOX]).save(content, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    return content.getvalue()[:-12] + chunk + content.getvalue()[-12:]


def test_an_orientation_behind_the_pixels_of_a_png():
    image = StoredImage("a", png_with_exif_at_its_end())
    assert head_of(image) == (SIZE, 6)
    assert image.load().size == SIZE


def test_an_orientation_in_the_xmp_of_a_png():
    content, text = io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="8"/>')
    picture(SIZE, [BOX]).save(content, "PNG", pnginfo=text)
    assert head_of(StoredImage("a", content.getvalue())).orientation == 8


def test_no_pixels_are_decoded(tmp_path, monkeypatch):
    save(tmp_path / "a.png", picture(SIZE, [BOX]))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: pytest.fail("decoded"))
    assert head_of(str(tmp_path / "a.png")) == (SIZE, 1)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    names = ["empty.png", "text.png", "nowhere.png"]
    assert heads_of([str(tmp_path / name) for name in names]) == [None, None, None]
    assert head_of(StoredImage("a", reason="nothing")) is None


UPRIGHT, STORED = (9, 6), (6, 9)  # of an orientation that exchanges them


class TestWhichPicture:
    @pytest.mark.parametrize("orientation", [5, 6, 7, 8])
    @pytest.mark.parametrize(("said", "turn"), [(UPRIGHT, 1), (STORED, None)], ids=["upright", "stored"])
    @pytest.mark.parametrize("given", [None, "upright", "stored"])
    def test_the_size_decides_where_it_can(self, orientation, said, turn, given):
        (found,) = settled([said], [Head(STORED, orientation)], given)
        assert found == (said, turn or orientation, "", False)

    @pytest.mark.parametrize("head", [Head(SIZE, 3), Head(SIZE, 2), Head(SIZE, 4), Head((7, 7), 6)], ids=str)
    @pytest.mark.parametrize(("given", "turned"), [("upright", False), ("stored", True)])
    def test_the_user_decides_where_it_cannot(self, head, given, turned):
        (found,) = settled([head.size], [head], given)
        assert found == (head.size, head.orientation if turned else 1, "", False)

    @pytest.mark.parametrize("head", [Head(SIZE, 3), Head(SIZE, 2), Head(SIZE, 4), Head((7, 7), 6)], ids=str)
    def test_without_a_word_the_image_has_a_fault(self, head):
        (found,) = settled([head.size], [head], None)
        assert "turned by EXIF" in found.fault

    def test_without_a_size_the_image_has_a_fault(self):
        (found,) = settled([None], [Head(STORED, 6)], None)
        assert "turned by EXIF" in found.fault

    @pytest.mark.parametrize(("said", "turn"), [(UPRIGHT, 1), (STORED, 3)], ids=["upright", "stored"])
    def test_other_images_decide_if_they_agree(self, said, turn):
        sizes, heads = [said, said, SIZE], [Head(STORED, 6), Head(STORED, 8), Head(SIZE, 3)]
        assert settled(sizes, heads, None)[2] == (SIZE, turn, "", True)

    def test_other_images_that_do_not_agree_decide_nothing(self):
        found = settled([UPRIGHT, STORED, SIZE], [Head(STORED, 6), Head(STORED, 6), Head(SIZE, 3)], None)
        assert [bool(one.fault) for one in found] == [False, False, True]

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_a_size_of_neither_picture_is_a_fault(self, orientation):
        (found,) = settled([(6, 8)], [Head((6, 9), orientation)], "upright")
        assert found.fault == "of another size than the annotations say"

    def test_the_image_says_a_size_that_the_annotations_lack(self):
        assert settled([None], [Head(SIZE, 1)], None) == [(SIZE, 1, "", False)]

    def test_an_unreadable_image_is_left_to_those_who_read_it(self):
        assert settled([SIZE, None], [None, None], None) == [(SIZE, 1, "", False), (None, 1, "", False)]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_head_of_a_jpeg(tmp_path, orientation):
    stored = save(tmp_path / "a.jpg", picture(SIZE, [BOX]), orientation)
    assert heads_of([str(tmp_path / "a.jpg")] * 3) == [Head(stored.size[::-1], orientation)] * 3
