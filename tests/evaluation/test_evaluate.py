"""Measurements of a real, untrained network, compared with a plain loop over the images."""

import json
import os
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import RealLabelsImagenet

from glocal.data.corruptions import ALEXNET_ERROR, Corruption, corrupt_transform
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource, Samples
from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks import measurement
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.classification.robustness import imagenet_classes
from glocal.tasks.classification.tables import confusions
from glocal.tasks.creation import create_model
from glocal.tasks.labels.tables import worst_classes
from glocal.tasks.loading import load_trained

pytestmark = pytest.mark.usefixtures("one_thread")

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # compiling takes longer than running on small images

IDS = list(imagenet_classes())
PREPROCESSING = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, crop_pct=0.8)


def save(folder, class_names, model="test_resnet"):
    torch.manual_seed(0)
    network = create_model(model, num_classes=len(class_names))
    with torch.no_grad():  # of all images an untrained network says nearly the same; here, what they differ in
        head = network.get_classifier()
        head.weight.normal_()
        head.bias -= network.eval()(torch.stack([*map(PREPROCESSING.transform(), draw_pictures())])).mean(0)
    info = CheckpointInfo(model, class_names, PREPROCESSING.to_dict())
    save_checkpoint(folder / "model.safetensors", network.state_dict(), info)
    return str(folder)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A run folder whose model knows ImageNet's classes."""
    return save(tmp_path_factory.mktemp("imagenet"), IDS)


def draw_pictures():
    """Twelve images of 40×48 pixels that differ in colour and pattern."""
    random = np.random.RandomState(0)
    coarse = [random.randint(0, 256, (5, 6, 3)).astype(np.uint8) for _ in range(12)]
    return [Image.fromarray(image).resize((48, 40)) for image in coarse]


@pytest.fixture(scope="module")
def pictures():
    return draw_pictures()


def logits_of(checkpoint, images, transform=None):
    transform = transform or PREPROCESSING.transform()
    model = load_trained(checkpoint).model
    with torch.inference_mode():
        return torch.cat([model(transform(image)[None]) for image in images])


def config(data, checkpoint, **changes):
    return EvalConfig(str(data), checkpoint, **{"workers": 0, "device": "cpu", "batch_size": 5, **changes})


def lay_out(root, pictures, classes, ending="png"):
    """Put each picture into the folder of its class; returns the class of each in the order of their paths."""
    for number, (picture, name) in enumerate(zip(pictures, classes, strict=True)):
        (root / name).mkdir(parents=True, exist_ok=True)
        picture.save(root / name / f"{number:02}.{ending}")
    return root


class TestFigures:
    def test_agree_with_a_plain_loop(self, imagenet, pictures, tmp_path):
        logits = logits_of(imagenet, pictures)
        ranked = logits.argsort(descending=True)
        labels = [int(ranked[i, (0, 0, 3, 700)[i % 4]]) for i in range(12)]  # half right, 9 of 12 among the first five
        result = evaluate(config(lay_out(tmp_path, pictures, [IDS[label] for label in labels]), imagenet))
        assert result.top1 == pytest.approx(50)
        assert result.top5 == pytest.approx(75)
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
        assert result.loss == pytest.approx(expected, rel=1e-4)
        cells = {(label, other): images for label, other, images in result.confusion}
        assert sum(cells.values()) == 12
        assert {key: cells[key] for key in cells} == {
            key: sum((label, int(ranked[i, 0])) == key for i, label in enumerate(labels)) for key in cells
        }
        assert sum(one["images"] for one in result.per_class) == 12
        assert sum(one["images"] for one in result.calibration) == 12

    def test_worst_classes_and_confusions_come_first(self, imagenet, pictures, tmp_path):
        ranked = logits_of(imagenet, pictures).argsort(descending=True)
        wrong = IDS[int(ranked[0, 700])]
        right = [IDS[int(label)] for label in ranked[1:, 0]]
        result = evaluate(config(lay_out(tmp_path, [pictures[0]] * 3 + pictures[1:], [wrong] * 3 + right), imagenet))
        assert worst_classes(result, "accuracy", 1) == [{"name": wrong, "images": 3, "accuracy": 0.0}]
        assert confusions(result) == [(wrong, IDS[int(ranked[0, 0])], 3)]

    def test_classes_are_known_in_both_writings(self, pictures, tmp_path):
        composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
        (tmp_path / "run").mkdir()
        checkpoint = save(tmp_path / "run", [decomposed, "dog"])
        data = lay_out(tmp_path / "data", pictures, [composed, decomposed, "dog"] * 4)
        result = evaluate(config(data, checkpoint))
        assert [(one["name"], one["images"]) for one in result.per_class] == [(decomposed, 8), ("dog", 4)]

    def test_json_holds_what_applies(self, imagenet, pictures, tmp_path):
        data = lay_out(tmp_path / "data", pictures, [IDS[5]] * 12)
        result = evaluate(config(data, imagenet, json=str(tmp_path / "e.json")))
        text = (tmp_path / "e.json").read_text()
        content = json.loads(text)
        assert content == result.to_dict()
        assert {"top1", "top5", "loss", "images_per_second", "ece", "calibration", "confusion"} <= content.keys()
        assert not {"mce", "map", "set"} & content.keys()
        assert f"[ 5, {result.confusion[0][1]}, {result.confusion[0][2]} ]" in text.replace("[5", "[ 5")

    def test_unreadable_images_do_not_count(self, imagenet, pictures, tmp_path):
        data = lay_out(tmp_path, pictures, [IDS[5]] * 12)
        expected = evaluate(config(data, imagenet))
        (data / IDS[5] / "broken.png").write_bytes(b"x")
        result = evaluate(config(data, imagenet))
        assert result.unreadable == [f"{data / IDS[5] / 'broken.png'}: not an image"]
        assert result.images == 12
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)

    def test_nothing_can_be_read(self, imagenet, tmp_path):
        (tmp_path / IDS[5]).mkdir()
        (tmp_path / IDS[5] / "broken.png").write_bytes(b"x")
        with pytest.raises(ValueError, match=r"none of the 1 images of .* can be read"):
            evaluate(config(tmp_path, imagenet))


class TestSizes:
    def test_each_is_measured_as_if_alone(self, imagenet, pictures, tmp_path):
        data = lay_out(tmp_path / "data", pictures, [IDS[5]] * 12)
        results = evaluate(config(data, imagenet, sizes="32,40", json=str(tmp_path / "s.json")))
        alone = [evaluate(config(data, imagenet, img_size=size)) for size in (32, 40)]
        assert [one.img_size for one in results] == [[32, 32], [40, 40]]
        assert [one.loss for one in results] == pytest.approx([one.loss for one in alone])
        assert results[0].loss != pytest.approx(results[1].loss)
        assert json.loads((tmp_path / "s.json").read_text()) == [one.to_dict() for one in results]

    def test_keeps_the_crop_of_the_model(self, imagenet, pictures, tmp_path):
        data = lay_out(tmp_path, pictures[:1], [IDS[5]])
        resized = pictures[0].resize((60, 50), Image.Resampling.BICUBIC)  # 40 pixels are 0.8 of it
        pixels = np.asarray(resized.crop((10, 5, 50, 45)))
        tensor = torch.from_numpy(pixels / 255).float().permute(2, 0, 1) * 2 - 1
        with torch.inference_mode():
            logits = load_trained(imagenet).model(tensor[None])
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor([5])).item()
        (result,) = evaluate(config(data, imagenet, sizes="40"))
        assert result.loss == pytest.approx(expected, rel=1e-3)

    def test_fixed_size_models_are_refused(self, pictures, tmp_path):
        (tmp_path / "run").mkdir()
        torch.manual_seed(0)
        fixed = {"img_size": 32, "dynamic_img_size": False}
        info = CheckpointInfo("test_vit", ["a", "b"], PREPROCESSING.to_dict(), model_args=fixed)
        state = create_model("test_vit", num_classes=2, **fixed).state_dict()
        save_checkpoint(tmp_path / "run/model.safetensors", state, info)
        data = lay_out(tmp_path / "data", pictures[:1], ["a"])
        with pytest.raises(ValueError, match="--sizes: the model does not take images of 48×48 pixels"):
            evaluate(config(data, str(tmp_path / "run"), sizes="32,48"))


class TestRobustnessSets:
    @pytest.mark.parametrize(("name", "top1"), [("imagenet-a", 100), ("imagenet-r", 100), ("imagenet-sketch", 0)])
    def test_a_and_r_are_measured_among_their_classes(self, imagenet, pictures, tmp_path, name, top1):
        ranked = logits_of(imagenet, pictures).argsort(descending=True)
        best = {int(label) for label in ranked[:, 0]}
        subset = [label for label in range(0, 1000, 7) if label not in best]  # what the model says is not among them
        labels = [next(int(label) for label in row if int(label) in subset) for row in ranked]
        data = lay_out(tmp_path, pictures, [IDS[label] for label in labels])
        for label in subset:  # the other classes have an image each, which is unreadable
            (data / IDS[label]).mkdir(exist_ok=True)
            (data / IDS[label] / "broken.png").write_bytes(b"x")
        result = evaluate(config(data, imagenet, set=name))
        assert result.top1 == pytest.approx(top1)
        assert result.set == name
        assert len(result.class_names) == (len(subset) if top1 else 1000)

    def test_v2_by_number(self, imagenet, pictures, tmp_path):
        labels = [9, 10, 2, 999, 100, 0, 1, 11, 12, 200, 20, 3]  # "10" sorts before "9"
        result = evaluate(config(lay_out(tmp_path, pictures, map(str, labels)), imagenet, set="imagenet-v2"))
        expected = torch.nn.functional.cross_entropy(logits_of(imagenet, pictures), torch.tensor(labels)).item()
        assert result.loss == pytest.approx(expected, rel=1e-5)

    def test_other_models_match_by_name(self, pictures, tmp_path):
        checkpoint = save(tmp_path, ["cat", "dog"])
        labels = logits_of(checkpoint, pictures).argmax(1).tolist()
        data = lay_out(tmp_path / "data", pictures, [("cat", "dog")[label] for label in labels])
        assert evaluate(config(data, checkpoint, set="imagenet-r")).top1 == 100

    def test_real_is_that_of_timm(self, imagenet, pictures, tmp_path):
        ranked = logits_of(imagenet, pictures).argsort(descending=True)
        accepted = [
            sorted(map(int, ranked[i, choice]))
            for i, choice in enumerate([[0], [1, 2], [0, 500], [9], [], [4], [5], [0], [], [800, 3], [700], [0, 1]])
        ]
        names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 13)]
        for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            (tmp_path / IDS[number]).mkdir()
            picture.save(tmp_path / IDS[number] / name, "PNG")
        (tmp_path / "real.json").write_text(json.dumps(accepted))
        reference = RealLabelsImagenet(names, tmp_path / "real.json")
        reference.add_result(logits_of(imagenet, pictures))
        result = evaluate(config(tmp_path, imagenet, set="real"))
        assert result.top1 == pytest.approx(reference.get_accuracy(1)) == pytest.approx(40)
        assert result.top5 == pytest.approx(reference.get_accuracy(5)) == pytest.approx(70)
        assert (result.images, result.unlabelled) == (10, 2)
        assert "loss" not in result.values

    def test_real_needs_imagenets_classes(self, pictures, tmp_path):
        (tmp_path / "data").mkdir()
        pictures[0].save(tmp_path / "data/ILSVRC2012_val_00000002.JPEG")
        with pytest.raises(ValueError, match="--set real needs a model of ImageNet's 1000 classes"):
            evaluate(config(tmp_path / "data", save(tmp_path, ["cat", "dog"]), set="real"))

    def test_c_on_disk(self, imagenet, pictures, tmp_path, caplog):
        small = [picture.resize((32, 32)) for picture in pictures[:4]]  # as large as the model's input, not cropped
        whole = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, crop_pct=1.0).transform()
        ranked = logits_of(imagenet, small, whole).argsort(descending=True)
        for name in ALEXNET_ERROR:
            for severity in range(1, 6):
                right = 2 if name == "fog" else severity - 1  # of four
                labels = [int(ranked[i, 0 if i < right else 9]) for i in range(4)]
                lay_out(tmp_path / name / str(severity), small, [IDS[label] for label in labels])
        result = evaluate(config(tmp_path, imagenet, set="imagenet-c"))
        assert result.corruptions["fog"]["errors"] == pytest.approx([50] * 5)
        assert result.corruptions["snow"]["errors"] == pytest.approx([100, 75, 50, 25, 0])
        assert result.mean_error == pytest.approx(50)
        assert result.top1 == pytest.approx(50)
        assert result.mce == pytest.approx(np.mean([50 / error for error in ALEXNET_ERROR.values()]))
        assert result.images == 300
        assert "AlexNet's errors are of 1000 classes" in caplog.text  # and this data has fewer

    def test_c_of_unequal_parts_counts_every_image_once(self, imagenet, pictures, tmp_path):
        small = [picture.resize((32, 32)) for picture in pictures]
        whole = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, crop_pct=1.0).transform()
        ranked = logits_of(imagenet, small, whole).argsort(descending=True)
        right, second = [[IDS[int(row[place])] for row in ranked] for place in (0, 1)]
        lay_out(tmp_path / "fog/1", small[:9], right[:9])
        lay_out(tmp_path / "fog/2", small[9:], [second[9], IDS[int(ranked[10, 900])], right[11]])
        result = evaluate(config(tmp_path, imagenet, set="imagenet-c"))
        assert result.images == 12
        assert result.top1 == pytest.approx(100 * 10 / 12)
        assert result.top5 == pytest.approx(100 * 11 / 12)
        labels = [*right[:9], second[9], IDS[int(ranked[10, 900])], right[11]]
        targets = torch.tensor([IDS.index(label) for label in labels])
        expected = torch.nn.functional.cross_entropy(logits_of(imagenet, small, whole), targets).item()
        assert result.loss == pytest.approx(expected, rel=1e-4)
        assert result.mean_error == pytest.approx((0 + 100 * 2 / 3) / 2)  # of the conditions, as ImageNet-C has it

    def test_c_in_part(self, imagenet, pictures, tmp_path, caplog):
        lay_out(tmp_path / "fog/1", pictures, [IDS[5]] * 12)
        result = evaluate(config(tmp_path, imagenet, set="imagenet-c"))
        assert "mce" not in result.values
        assert result.corruptions["fog"]["errors"][1:] == [None] * 4
        assert "holds 1 of 75 corruptions and severities: there is no mCE" in caplog.text


class TestCorruptions:
    def test_made_on_the_fly(self, imagenet, pictures, tmp_path):
        logits = logits_of(imagenet, pictures)
        data = lay_out(tmp_path, pictures, [IDS[int(label)] for label in logits.argmax(1)])
        result = evaluate(config(data, imagenet, corruptions="pixelate,gaussian_noise"))
        assert result.top1 == 100  # of the clean images
        assert list(result.corruptions) == ["pixelate", "gaussian_noise"]
        expected = []
        for severity in range(1, 6):
            transform = corrupt_transform(PREPROCESSING.transform(), Corruption("pixelate", severity))
            wrong = logits_of(imagenet, pictures, transform).argmax(1) != logits.argmax(1)
            expected.append(100 * wrong.double().mean().item())
        assert 0 < np.mean(expected) < 100
        assert result.corruptions["pixelate"]["errors"] == pytest.approx(expected)
        assert result.corruptions["pixelate"]["ce"] == pytest.approx(np.mean(expected) / ALEXNET_ERROR["pixelate"])
        assert "mce" not in result.values  # of two corruptions of 15

    def test_other_classes_have_no_ce(self, pictures, tmp_path):
        data = lay_out(tmp_path / "data", pictures[:2], ["cat", "dog"])
        result = evaluate(config(data, save(tmp_path, ["cat", "dog"]), corruptions="contrast"))
        assert "ce" not in result.corruptions["contrast"]


class TestMultiLabel:
    @pytest.fixture
    def data(self, pictures, monkeypatch):
        labels = [(0,), (1,), (0, 1), (), (0,), (1,), (0, 1), (), (0,), (1,), (0, 1), ()]
        samples = Samples([np.asarray(picture) for picture in pictures], labels)
        source = DataSource("many", ["dog", "bird"], {"all": samples}, task="multilabel")
        monkeypatch.setattr(measurement, "open_for_evaluation", lambda *_, **__: (source, "all"))
        return labels

    def test_map(self, data, pictures, tmp_path):
        from torchmetrics.functional.classification import multilabel_average_precision

        checkpoint = save(tmp_path, ["cat", "bird", "dog"])
        result = evaluate(config("many", checkpoint))
        targets = torch.tensor([[int(label in labels) for label in (0, 1)] for labels in data])
        scores = logits_of(checkpoint, pictures)[:, [2, 1]].sigmoid()  # dog and bird, as the model has them
        expected = 100 * multilabel_average_precision(scores, targets, 2, average=None)
        assert [one["name"] for one in result.per_class] == ["dog", "bird"]
        assert [one["average_precision"] for one in result.per_class] == pytest.approx(expected.tolist())
        assert result.map == pytest.approx(expected.mean().item())
        assert "top1" not in result.values
        assert result.images == 12

    @pytest.mark.parametrize("option", [{"corruptions": "fog"}, {"plots": "plots"}])
    def test_what_needs_one_label_is_refused(self, data, tmp_path, monkeypatch, option):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=f"--{next(iter(option))}.*(several|multilabel)"):
            evaluate(config("many", save(tmp_path, ["cat", "bird", "dog"]), **option))


class TestPlots:
    def test_what_applies_is_drawn(self, imagenet, pictures, tmp_path):
        """See test_eval_plots for what is on them."""
        data = lay_out(tmp_path / "data", pictures[:2], [IDS[5]] * 2)
        plots = tmp_path / "new/plots"
        evaluate(config(data, imagenet, plots=str(plots), corruptions="contrast"))
        assert {path.name for path in plots.iterdir()} == {"confusion.png", "corruptions.png", "reliability.png"}
        evaluate(config(data, imagenet, plots=str(plots), sizes="32,40"))
        assert (plots / "sizes.png").exists()

    def test_a_file_in_the_place_of_the_folder(self, imagenet, tmp_path):
        (tmp_path / "plots").touch()
        with pytest.raises(NotADirectoryError, match=r"--plots .* is a file"):
            evaluate(config(tmp_path, imagenet, plots=str(tmp_path / "plots")))
