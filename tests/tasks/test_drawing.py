"""Pictures for people: images at a size that can be read, with text beside them and never over them."""

import numpy as np
import pytest
import torch
from PIL import Image

from glocal import figures
from glocal.tasks.drawing import GAP, HATCHED, LEAST, Entry, beside, grid, readable, text_of, with_caption


def noise(width, height, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8))


class TestReadable:
    @pytest.mark.parametrize(
        ("size", "shown"),
        [((32, 32), (224, 224)), ((150, 100), (300, 200)), ((200, 200), (200, 200)), ((90, 8), (630, 56))],
        ids=str,
    )
    def test_small_images_are_enlarged_by_a_whole_factor(self, size, shown):
        image = noise(*size)
        found = readable(image)
        assert found.size == shown
        factor = shown[0] // size[0]
        pixels = np.asarray(image).repeat(factor, 0).repeat(factor, 1)
        assert np.array_equal(np.asarray(found), pixels)

    @pytest.mark.parametrize(
        ("size", "shown"), [((2000, 1000), (640, 320)), ((1, 9000), (1, 640)), ((640, 641), (639, 640))], ids=str
    )
    def test_large_images_are_reduced(self, size, shown):
        image = noise(*size)
        assert readable(image).size == shown
        assert image.size == size


class TestCaption:
    @pytest.mark.parametrize("above", [False, True])
    def test_no_text_covers_the_image(self, above):
        image = noise(240, 90)
        picture = with_caption(image, [Entry("a cat"), Entry("grass", (0, 255, 0))], above)
        assert picture.width == 240
        assert picture.height > 90 + 16
        place = (0, picture.height - 90, 240, picture.height) if above else (0, 0, 240, 90)
        assert np.array_equal(np.asarray(picture.crop(place)), np.asarray(image))

    def test_text_and_the_class_colour_are_there(self):
        strip = np.asarray(with_caption(noise(240, 90), [Entry("grass", (10, 250, 20))]))[90:]
        assert (strip == (10, 250, 20)).all(-1).sum() > 100
        assert (strip == 0).all(-1).sum() > 20  # letters
        assert not (np.asarray(with_caption(noise(240, 90), [Entry("grass")]))[90:] == (10, 250, 20)).all(-1).any()

    def test_ignored_pixels_have_a_hatched_box(self):
        box = np.asarray(with_caption(noise(240, 90), [Entry("", HATCHED)]))[96:104, 4:12]
        assert len(np.unique(box.reshape(-1, 3), axis=0)) > 1

    def test_many_entries_take_more_rows(self):
        heights = [with_caption(noise(240, 90), [Entry("a class", (9, 9, 9))] * count).height for count in (1, 8)]
        assert heights[1] >= heights[0] + 60

    def test_a_narrow_image_still_has_room_for_text(self):
        assert with_caption(noise(5, 90), [Entry("a cat")]).size[0] == LEAST

    @pytest.mark.parametrize(
        "text",
        ["long " * 400, "\x1b[2J\n\r\x00", "\udcff", "猫 Katze قط", "", "𝔘" * 50, "x" * 100_000],
        ids=lambda text: f"{len(text)}-{text[:4]!r}",
    )
    def test_any_text_has_one_row(self, text):
        assert with_caption(noise(240, 90), [Entry(text)]).height == with_caption(noise(240, 90), [Entry("x")]).height

    def test_long_names_are_told_apart_by_their_ends(self):
        first, second = (with_caption(noise(240, 9), [Entry("folder/" * 40 + end)]) for end in ("1.png", "2.png"))
        assert np.asarray(first).tobytes() != np.asarray(second).tobytes()

    def test_letters_that_no_font_has_are_said_once(self, monkeypatch, caplog):
        font_manager = pytest.importorskip("matplotlib.font_manager")
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
        figures._font_with.cache_clear()
        for _ in range(2):
            with_caption(noise(240, 9), [Entry("Katze 猫")])
        figures._font_with.cache_clear()
        assert len(caplog.records) == 1
        assert "the pictures show boxes instead of some letters, such as 猫" in caplog.text

    def test_a_font_that_has_the_letters_is_taken(self, monkeypatch):
        font_manager = pytest.importorskip("matplotlib.font_manager")
        asked = {"plain.ttf": set("abZ0%"), "Regular-hebrew.ttf": {"ק", "ט"}, "wide.ttf": set("aZ0%קט")}
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(asked))
        monkeypatch.setattr(figures, "_lacking", lambda file, letters: letters - asked.get(file, set()))
        own = font_manager.findfont("DejaVu Sans")
        monkeypatch.setitem(asked, own, set("Katze"))
        figures._font_with.cache_clear()
        assert figures.font_file("Katze") == own
        assert figures.font_file("Katze קט") == "wide.ttf"
        figures._font_with.cache_clear()

    def test_letters_beyond_ascii_are_not_all_the_same_box(self):
        pytest.importorskip("matplotlib")
        first, second = (np.asarray(with_caption(noise(240, 9), [Entry(text)])) for text in ("ä", "ß"))
        assert not np.array_equal(first, second)


def test_images_lie_beside_each_other_with_white_between():
    pictures = noise(20, 10), noise(30, 15, 1)
    together = np.asarray(beside(pictures))
    assert together.shape == (15, 50 + GAP, 3)
    assert np.array_equal(together[:10, :20], np.asarray(pictures[0]))
    assert np.array_equal(together[:, -30:], np.asarray(pictures[1]))
    assert (together[:, 20:-30] == 255).all()


@pytest.mark.parametrize(
    ("count", "size", "columns"), [(16, (50, 50), 4), (1, (50, 50), 1), (7, (50, 50), 3), (16, (90, 45), 3)]
)
def test_a_grid_has_about_the_shape_of_a_screen(count, size, columns):
    pictures = [noise(*size, seed) for seed in range(count)]
    found = grid(pictures)
    assert found.width == columns * (size[0] + GAP) + GAP
    assert found.height == -(-count // columns) * (size[1] + GAP) + GAP
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        left, top = (GAP + place * (side + GAP) for place, side in zip((column, row), size, strict=True))
        assert np.array_equal(np.asarray(found)[top : top + size[1], left : left + size[0]], np.asarray(picture))


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (torch.tensor(3), "3"),
        (2, "2"),
        (torch.tensor([0.5, -0.25]), "0.5, -0.25"),
        (torch.zeros(4, 5), "4×5 numbers"),
        ({"boxes": torch.tensor([[1, 2]]), "name": "a"}, "boxes: 1, 2, name: a"),
        (list(range(20)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …"),
    ],
    ids=str,
)
def test_a_target_is_a_line(target, text):
    assert text_of(target) == text
