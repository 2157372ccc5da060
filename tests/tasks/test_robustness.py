import json

import pytest
from PIL import Image

from glocal.tasks.classification.robustness import imagenet_classes, open_corrupted, open_real, open_robustness_set

IDS = list(imagenet_classes())


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


def test_imagenet_has_its_classes_in_order():
    assert len(IDS) == 1000
    assert sorted(set(IDS)) == IDS
    assert (IDS[0], IDS[-1]) == ("n01440764", "n15075141")


class TestFolders:
    def test_classes_are_the_folders(self, tmp_path):
        root = fill(tmp_path, "n01498041/a.jpg", "n01443537/b.jpg")
        source = open_robustness_set("imagenet-sketch", root, IDS)
        assert source.class_names == ["n01443537", "n01498041"]
        assert source.notes == ()

    @pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
    def test_another_number_of_classes_than_published_is_noted(self, tmp_path, name):
        source = open_robustness_set(name, fill(tmp_path, "n01443537/a.jpg"), IDS)
        assert source.notes == (f"{tmp_path} holds 1 classes; {name} has 200",)

    def test_v2_is_numbered_not_sorted_as_text(self, tmp_path):
        source = open_robustness_set("imagenet-v2", fill(tmp_path, "2/a.jpeg", "10/a.jpeg", "999/a.jpeg"), IDS)
        by_path = dict(zip(source.splits["all"].images, source.splits["all"].labels, strict=True))
        names = {path: source.class_names[label] for path, label in by_path.items()}
        assert names == {str(tmp_path / f"{number}/a.jpeg"): IDS[number] for number in (2, 10, 999)}

    def test_v2_by_number_for_a_model_that_knows_numbers(self, tmp_path):
        known = [str(number) for number in range(1000)]
        assert open_robustness_set("imagenet-v2", fill(tmp_path, "7/a.jpeg"), known).class_names == ["7"]

    def test_v2_has_no_class_1000(self, tmp_path):
        with pytest.raises(ValueError, match="'1000' is no number of a class, which go from 0 to 999"):
            open_robustness_set("imagenet-v2", fill(tmp_path, "1000/a.jpeg"), IDS)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="--set imagenet-a needs the folder of that set"):
            open_robustness_set("imagenet-a", tmp_path / "none", IDS)


class TestCorrupted:
    @pytest.mark.parametrize("group", ["", "weather/"], ids=["flat", "as in the archives"])
    def test_a_data_set_per_corruption_and_severity(self, tmp_path, group):
        fill(
            tmp_path, f"{group}fog/1/{IDS[3]}/a.JPEG", f"{group}fog/5/{IDS[3]}/a.JPEG", f"{group}snow/2/{IDS[4]}/a.JPEG"
        )
        found = open_corrupted(tmp_path)
        assert set(found) == {("fog", 1), ("fog", 5), ("snow", 2)}
        assert found["snow", 2].class_names == [IDS[4]]
        assert found["fog", 5].splits["all"].images == [str(tmp_path / f"{group}fog/5/{IDS[3]}/a.JPEG")]

    def test_something_else(self, tmp_path):
        with pytest.raises(ValueError, match="holds no folder such as gaussian_noise/1"):
            open_corrupted(fill(tmp_path, "n01443537/a.jpg"))


class TestReal:
    def names(self, *numbers):
        return [f"ILSVRC2012_val_{number:08}.JPEG" for number in numbers]

    def test_labels_by_the_number_in_the_name(self, tmp_path):
        fill(tmp_path, *(f"{IDS[0]}/{name}" for name in self.names(2, 4)), *self.names(3), "other.jpg")
        (tmp_path / "real.json").write_text(json.dumps([[1], [5, 6], [], [7]]))
        samples, accepted, unlabelled = open_real(tmp_path)
        assert {path[-13:]: accepted[place] for path, place in zip(samples.images, samples.labels, strict=True)} == {
            "00000002.JPEG": (5, 6),
            "00000004.JPEG": (7,),
        }
        assert unlabelled == 1

    def test_published_labels_without_a_file(self, tmp_path):
        samples, accepted, unlabelled = open_real(fill(tmp_path, *self.names(1, 2)))
        assert (len(accepted), sum(map(bool, accepted))) == (50_000, 46_837)  # as the paper counts them
        assert accepted[samples.labels[0]] == (970, 795)  # of the second image
        assert unlabelled == 1

    @pytest.mark.parametrize("content", ["{", "[1]", "[[1000]]", "[[true]]", "[" * 50_000, "[[-1]]", '{"a": 1}'])
    def test_broken_file(self, tmp_path, content):
        fill(tmp_path, *self.names(1))
        (tmp_path / "real.json").write_text(content)
        with pytest.raises(ValueError, match=r"real\.json is no list with a list of class numbers"):
            open_real(tmp_path)

    def test_too_short_file(self, tmp_path):
        fill(tmp_path, *self.names(1, 3))
        (tmp_path / "real.json").write_text("[[1], [2]]")
        with pytest.raises(ValueError, match="has 2 entries, too few for 1 of the images"):
            open_real(tmp_path)

    def test_other_images(self, tmp_path):
        with pytest.raises(ValueError, match=r"named like ILSVRC2012_val_00000001\.JPEG"):
            open_real(fill(tmp_path, "a.jpg"))
