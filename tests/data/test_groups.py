"""Groups stay on one side of a split."""

import json
import random
import sys

import numpy as np
import pytest

from glocal.data.groups import groups_of_files, numbered
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import hold_out, hold_out_again, stratified_split

LABELS = [number * number % 7 for number in range(40)]
SEVERAL = [tuple(j for j in range(4) if (i * 7 + j * 3) % 5 < 2) for i in range(40)]


def drawn_at_random(draw, several):
    """Labels and groups of some images; some groups are of None."""
    count, classes = draw.randint(20, 200), draw.randint(1, 6)
    groups = [draw.choice([None, *range(draw.randint(2, 30))]) for _ in range(count)]
    if several:
        return [tuple(sorted(draw.sample(range(classes), draw.randint(0, classes)))) for _ in range(count)], groups
    return [draw.randrange(classes) for _ in range(count)], groups


def classes_of(labels, indices):
    found = [labels[index] for index in indices]
    return {one for label in found for one in (label if isinstance(label, tuple) else [label])}


class TestSplit:
    @pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
    @pytest.mark.parametrize("seed", range(40))
    def test_a_group_is_on_one_side(self, seed, several):
        draw = random.Random(seed)
        labels, groups = drawn_at_random(draw, several)
        fraction = draw.choice([0.1, 0.2, 0.3, 0.5, 0.8])
        kept, drawn = stratified_split(labels, fraction, seed, groups)
        assert sorted(kept + drawn) == list(range(len(labels)))
        inside, outside = ({groups[i] for i in part} - {None} for part in (drawn, kept))
        assert not inside & outside
        assert classes_of(labels, drawn) <= classes_of(labels, kept)

    @pytest.mark.parametrize("fraction", [0.1, 0.2, 0.25, 0.5])
    def test_every_class_gives_its_part(self, fraction):
        draw = np.random.RandomState(0)
        groups = draw.randint(0, 200, 3000)
        labels = draw.randint(0, 3, 3000).tolist()
        _, drawn = stratified_split(labels, fraction, 0, groups.tolist())
        for label in range(3):
            part = sum(labels[i] == label for i in drawn) / labels.count(label)
            assert part == pytest.approx(fraction, rel=0.1)

    def test_the_seed_decides(self):
        groups = [i // 3 for i in range(40)]
        first = stratified_split(LABELS, 0.2, 1, groups)
        assert first == stratified_split(LABELS, 0.2, 1, groups)
        assert first != stratified_split(LABELS, 0.2, 2, groups)

    def test_a_class_of_one_group_stays_for_training(self):
        labels, groups = [0, 0, 0, 0, 1, 1], ["a", "b", "c", "d", "e", "e"]
        for seed in range(10):
            assert not {4, 5} & set(stratified_split(labels, 0.4, seed, groups)[1])

    def test_a_large_group_is_not_held_out_for_a_small_part(self):
        groups = ["large"] * 60 + [f"small {i}" for i in range(20)] + ["middle"] * 20
        for seed in range(10):
            _, drawn = stratified_split([0] * 100, 0.2, seed, groups)
            assert 15 <= len(drawn) <= 25

    def test_labels_that_are_no_classes(self):
        labels, groups = [object() for _ in range(40)], [i // 4 for i in range(40)]
        assert len(stratified_split(labels, 0.2, 0, groups)[1]) == 8

    def test_a_single_group(self):
        with pytest.raises(ValueError, match="all images are of one group"):
            stratified_split([0, 1] * 5, 0.2, 0, ["a"] * 10)

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
        with pytest.raises(ImportError, match=r"--group needs scikit-learn: pip install 'glocal\[train\]'"):
            stratified_split([0, 1] * 5, 0.2, 0, list(range(10)))

    def test_without_groups_a_split_is_what_it_always_was(self):
        assert stratified_split(LABELS, 0.2, 3)[1] == [21, 22, 23, 30, 31, 32, 36]
        assert stratified_split(SEVERAL, 0.25, 3)[1] == [4, 9, 15, 16, 18, 27, 28, 29, 32, 37, 38]


def source_of(labels, names=("a", "b", "c", "d", "e", "f", "g")):
    return DataSource("photos", list(names), {"all": Samples([f"{i}.png" for i in range(len(labels))], labels)})


class TestHoldingOut:
    def test_it_is_found_again_whatever_is_installed(self, monkeypatch):
        groups = [i // 3 for i in range(40)]
        source = hold_out(source_of(LABELS), Opening(seed=1, group="patient"), "key", groups)
        assert {**source.held_out, "val": ""} == {
            "val_fraction": 0.2, "seed": 1, "files": "key", "group": "patient", "val": ""
        }  # fmt: skip
        monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
        again = hold_out_again(source_of(LABELS), json.loads(json.dumps(source.held_out)))
        for part in ("train", "val"):
            assert again.splits[part].content() == source.splits[part].content()
        assert source.splits["val"].images

    def test_strata_beside_the_annotations(self):
        objects = [object() for _ in LABELS]
        source = hold_out(source_of(objects), Opening(0.2, 3), "key", strata=LABELS)
        assert source.splits["val"].images == [f"{i}.png" for i in [21, 22, 23, 30, 31, 32, 36]]
        assert source.held_out.keys() == {"val_fraction", "seed", "files", "val"}
        assert hold_out_again(source_of(objects), source.held_out).splits["val"].labels == source.splits["val"].labels

    def test_notes(self):
        groups = [None, None, *(i // 3 for i in range(38))]
        source = hold_out(source_of(LABELS), Opening(group="x"), "key", groups)
        drawn = [int(image.removesuffix(".png")) for image in source.splits["val"].images]
        held = len({f"alone {i}" if groups[i] is None else groups[i] for i in drawn})
        part = len(source.splits["val"]) / 40
        assert source.notes[:2] == (
            f"photos: {held} of 15 groups held out, {part:.1%} of the images",
            "photos: 2 images of no group, each taken for one: '0.png', '1.png'",
        )

    def test_a_class_that_cannot_be_held_out_is_named(self):
        source = hold_out(source_of([0] * 8 + [1, 1], "ab"), Opening(group="x"), "key", [*range(8), 8, 8])
        assert source.notes[-1] == "'b': in no group that can be held out; none is held out"

    def test_every_group_is_needed(self):
        with pytest.raises(ValueError, match="photos: every group has a class that no other has"):
            hold_out(source_of([0, 0, 1, 1], "ab"), Opening(group="x"), "key", list("aabb"))

    @pytest.mark.parametrize("val", ["", "gA", "gA==", "gAAAAA==", "AAAAAAA=", "//////8=", "/////4A=", "é", "gAAAAAAA"])
    def test_a_part_of_other_data(self, val):
        held_out = {"val_fraction": 0.2, "seed": 0, "files": "key", "group": "x", "val": val}
        with pytest.raises(ValueError, match="names images to measure on that photos does not have"):
            hold_out_again(source_of(LABELS[:33]), held_out)

    def test_annotations_that_are_no_classes(self):
        """Of masks, a description that lacks the images was not written by a training."""
        held_out = {"val_fraction": 0.2, "seed": 0, "files": "key"}
        with pytest.raises(ValueError, match="does not say which images of photos were held out"):
            hold_out_again(source_of([object() for _ in LABELS]), held_out)


class TestFiles:
    NAMES = ("cat/p01_1.png", "cat/p01_2.png", "dog/p02_1.png", "dog/x.png")

    @pytest.mark.parametrize(
        ("pattern", "groups"),
        [
            (r"p\d+", ["p01", "p01", "p02", None]),
            (r"p(\d+)_", ["01", "01", "02", None]),
            (r"(?:p(\d+))|x", ["01", "01", "02", "x"]),
            (r"^(\w+)/", ["cat", "cat", "dog", "dog"]),
            (r"(?P<a>q)?(?P<b>p\d)", ["p0", "p0", "p0", None]),
        ],
    )
    def test_what_names_the_group(self, pattern, groups):
        assert groups_of_files("photos", self.NAMES, pattern) == groups

    def test_none_are_groups_of_their_own(self):
        assert numbered(["a", None, "a", None, 1]).tolist() == [0, 1, 0, 2, 3]

    def test_found_nowhere(self):
        with pytest.raises(ValueError, match=r"^photos: --group 'q' is found in no name, for instance not in 'cat/p01"):
            groups_of_files("photos", self.NAMES, "q")

    @pytest.mark.parametrize("pattern", ["(", "[", "a**", "(?P<1>a)", "a{99999999999999999999}"])
    def test_no_expression(self, pattern):
        with pytest.raises(ValueError, match="is no regular expression: "):
            groups_of_files("photos", self.NAMES, pattern)
