"""Run lengths and polygons."""

import hashlib

import numpy as np
import pytest

from glocal.data import segments
from glocal.data.segments import (
    mask_of_polygons,
    mask_of_runs,
    mask_of_text,
    runs_of_mask,
    runs_of_text,
    text_of_runs,
    texts_of_labels,
)

# Texts that pycocotools 2.0.11 wrote for masks: (size, runs, text).
WRITTEN = [
    ((4, 5), [3, 1, 1, 1, 1, 1, 8, 3, 1], "31100072I"),
    (
        (9, 7),
        [2, 1, 1, 1, 2, 1, 8, 3, 3, 1, 1, 1, 7, 1, 3, 1, 1, 1, 5, 2, 1, 2, 5, 1, 2, 1, 3, 1, 1],
        "21101062KNN060L0N041L04OM010N",
    ),
    (
        (40, 50),
        [
            14,
            1,
            13,
            1,
            49,
            1,
            45,
            1,
            92,
            1,
            29,
            1,
            46,
            1,
            104,
            1,
            15,
            1,
            125,
            1,
            27,
            1,
            167,
            1,
            49,
            1,
            148,
            1,
            61,
            1,
            7,
            1,
            35,
            1,
            33,
            1,
            4,
            1,
            88,
            1,
            9,
            1,
            30,
            1,
            131,
            1,
            49,
            1,
            40,
            1,
            26,
            1,
            61,
            1,
            29,
            1,
            79,
            1,
            16,
            1,
            57,
            1,
            28,
            1,
            78,
            2,
            7,
            1,
            61,
            1,
            37,
            1,
            24,
            1,
            34,
            1,
            14,
        ],
        ">1=0T10L0_10QN0a00j10WM0^30nL0\\40ZL0S30YM0ZN0l00N0SO0d20aM0e00U30^M0G0B0S10PO0b10QN0Y10SO0b11iMOf10XO0C0:0\\O",
    ),
    (
        (300, 200),
        [
            859,
            1,
            1095,
            1,
            1165,
            1,
            538,
            1,
            3486,
            1,
            2600,
            1,
            7,
            1,
            1727,
            1,
            535,
            1,
            2583,
            1,
            7307,
            1,
            489,
            1,
            516,
            1,
            2471,
            1,
            3152,
            1,
            1875,
            1,
            237,
            1,
            794,
            1,
            437,
            1,
            2469,
            1,
            2195,
            1,
            3477,
            1,
            391,
            1,
            1326,
            1,
            352,
            1,
            172,
            1,
            4335,
            1,
            627,
            1,
            3534,
            1,
            99,
            1,
            460,
            1,
            2341,
            1,
            1920,
            1,
            1458,
            1,
            1214,
            1,
            1722,
        ],
        "kj01WR10V20]\\O0Tl20ZTO0o^M0he10hjN0PP20dc40nZI0k00Sm10Ye00ShN0j\\N0]a00kD0`o10^G0RX10boL0Wm00bQO0\\J0SR40T\\L0kj20edL0Y;0ij10kB0bA0\\H0l?",
    ),
]


def random_mask(seed, size, part=0.5):
    return np.random.RandomState(seed).rand(*size) < part


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (64, 48)], ids=str)
@pytest.mark.parametrize("part", [0, 0.03, 0.5, 1])
def test_a_mask_returns_from_its_runs_and_from_its_text(size, part):
    mask = random_mask(0, size, part)
    runs = runs_of_mask(mask)
    assert runs_of_text(text_of_runs(runs)) == runs
    assert np.array_equal(mask_of_runs(runs, size), mask)


def test_runs_go_down_the_columns_and_begin_outside():
    assert runs_of_mask(np.array([[1, 0, 0], [1, 1, 0]])) == [0, 2, 1, 1, 2]


@pytest.mark.parametrize(("size", "runs", "text"), WRITTEN, ids=str)
def test_texts_are_those_of_pycocotools(size, runs, text):
    assert text_of_runs(runs) == text
    assert runs_of_text(text) == runs
    assert mask_of_runs(runs, size).shape == size


@pytest.mark.parametrize("text", ["~", "é", " ", "o", "oooooooooooooooooooooooooo0"])
def test_a_text_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="the run lengths of a segment"):
        runs_of_text(text)


@pytest.mark.parametrize("runs", [[5], [3, 4], [7, -1], [], [2**62, 2**62, 2**62, 2**62, 6]], ids=str)
def test_runs_that_do_not_fill_a_mask_are_refused(runs):
    with pytest.raises(ValueError, match="do not fill 2×3 pixels"):
        mask_of_runs(runs, (3, 2))


class TestPolygons:
    def test_a_rectangle_on_the_borders_of_pixels(self):
        mask = mask_of_polygons([[1, 0, 4, 0, 4, 2, 1, 2]], (3, 5))
        assert mask.astype(int).tolist() == [[0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]

    def test_pixels_whose_middles_are_inside(self):
        mask = mask_of_polygons([[0.6, 0.4, 3.4, 0.4, 3.4, 1.6, 0.6, 1.6]], (3, 5))
        assert mask.astype(int).tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]

    def test_several_parts(self):
        mask = mask_of_polygons([[0, 0, 1, 0, 1, 1, 0, 1], [2, 1, 3, 1, 3, 2, 2, 2]], (2, 3))
        assert mask.astype(int).tolist() == [[1, 0, 0], [0, 0, 1]]

    def test_parts_that_overlap_are_all_inside(self):
        square = [0, 0, 2, 0, 2, 2, 0, 2]
        assert mask_of_polygons([square, square], (2, 2)).all()

    def test_more_edges_in_a_row_than_8_bits_count(self):
        teeth = [[2 * x, 0 if x % 2 else 4] for x in range(301)]
        polygon = [number for corner in [*teeth, [600, 5], [0, 5]] for number in corner]
        mask = mask_of_polygons([polygon], (5, 600))
        assert mask[4].all()
        assert mask[2].sum() == 300
        assert not mask[2, 0]

    def test_what_is_outside_the_image_is_cut(self):
        mask = mask_of_polygons([[-9, -9, 1, -9, 1, 99, -9, 99]], (3, 2))
        assert mask.astype(int).tolist() == [[1, 0]] * 3
        assert not mask_of_polygons([[10, 10, 20, 10, 20, 20]], (3, 2)).any()

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_the_angles_around_each_pixel(self, seed):
        random = np.random.RandomState(seed)
        angles = np.sort(random.rand(9)) * 2 * np.pi
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * (3 + 12 * random.rand(9, 1)) + 16
        mask = mask_of_polygons([corners.reshape(-1).tolist()], (32, 30))
        x, y = np.arange(30)[None, :] + 0.5, np.arange(32)[:, None] + 0.5
        turns = np.zeros(mask.shape)
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
            angle = np.arctan2(y2 - y, x2 - x) - np.arctan2(y1 - y, x1 - x)
            turns += (angle + np.pi) % (2 * np.pi) - np.pi
        assert np.array_equal(mask, np.abs(turns) > np.pi)

    @pytest.mark.parametrize(
        "polygon",
        [[], [1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, float("nan")], [1, 2, 3, 4, 5, 1e300]],
        ids=str,
    )
    def test_what_is_no_polygon_is_refused(self, polygon):
        with pytest.raises(ValueError, match="three corners at least"):
            mask_of_polygons([polygon], (3, 3))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 40), (33, 64)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_texts_of_masks_come_back(size, share):
    mask = np.random.RandomState(0).random_sample(size) < share
    assert np.array_equal(mask_of_text(texts_of_labels(mask, [True])[0], size), mask)


@pytest.mark.parametrize(
    ("rows", "text"),
    [  # written by pycocotools
        (["0110", "0110"], "242"),
        (["1000", "0000"], "017"),
        (["000000"] * 6, "T1"),
    ],
)
def test_texts_of_masks_are_cocos(rows, text):
    mask = np.array([[int(cell) for cell in row] for row in rows], bool)
    assert texts_of_labels(mask, [True])[0] == text


def test_short_and_long_runs_are_cocos():
    short = np.add.outer(np.arange(5), np.arange(40) ** 2) % 7 < 3
    assert (
        texts_of_labels(short, [True])[0] == "032O41NN33LOOO41NN33LOOO41NN33LOOO41NN33LOOO41NN33LOOO41NN0"
    )  # by pycocotools too
    long = np.zeros((300, 200), bool)
    long[37:201, 11:150] = True
    long[90:95, 40:60] = False
    assert hashlib.sha256(texts_of_labels(long, [True])[0].encode()).hexdigest().startswith("3bb421ea4412a62f")


@pytest.mark.parametrize("text", ["", "99", "\x00", "é", "o" * 100, "1"])
def test_broken_texts_are_refused(text):
    with pytest.raises(ValueError, match="run"):
        mask_of_text(text, (4, 4))


def test_large_maps_are_read_in_strips(monkeypatch):
    labels = np.random.RandomState(0).randint(0, 3, (13, 50))
    whole = texts_of_labels(labels, range(4))
    monkeypatch.setattr(segments, "AT_ONCE", 13 * 7)
    assert texts_of_labels(labels, range(4)) == whole


@pytest.mark.parametrize("at_once", [1, 40, 2**24])
def test_areas_of_many_polygons_are_those_of_their_masks(monkeypatch, at_once):
    monkeypatch.setattr(segments, "AT_ONCE", at_once)
    random = np.random.RandomState(0)
    sizes = [(int(height), int(width)) for height, width in random.randint(1, 30, (60, 2))]
    polygons = [
        (random.rand(random.randint(3, 9), 2) * 50 - 10).round(random.randint(3)).ravel().tolist() for _ in sizes
    ]
    expected = [mask_of_polygons([polygon], size).sum() for polygon, size in zip(polygons, sizes, strict=True)]
    assert max(expected) > 50
    assert segments.areas_of_polygons(polygons, sizes).tolist() == expected
    assert segments.areas_of_polygons([], []).tolist() == []
