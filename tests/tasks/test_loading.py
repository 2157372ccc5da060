import argparse
import pickle

import pytest
import timm
import torch

from glocal.device import resolve_device
from glocal.tasks import find_task
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.creation import create_model
from glocal.tasks.loading import check_input_size, load_for_finetuning, load_trained

TASK, NAMES = find_task("classification"), list("abcdefg")


@pytest.fixture
def run(tmp_path):
    """A run folder of test_resnet on three classes, and its model."""
    model = timm.create_model("test_resnet", num_classes=3)
    info = CheckpointInfo("test_resnet", ["a", "b", "c"], {"input_size": [3, 32, 32], "mean": [0.5], "std": [0.25]})
    save_checkpoint(tmp_path / "model.safetensors", model.state_dict(), info)
    return tmp_path, model.eval()


@pytest.fixture
def official(tmp_path):
    model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "official.pth")
    return tmp_path / "official.pth", model.eval()


class TestNames:
    @pytest.mark.parametrize(
        ("name", "close"),
        [("transxnet_pic", "transxnet_pico"), ("test_resnt", "test_resnet"), ("vanb0", "van_b0")],
    )
    def test_unknown_model_gets_the_closest(self, name, close):
        with pytest.raises(ValueError, match=f"unknown model '{name}': did you mean .*{close}"):
            create_model(name)

    @pytest.mark.parametrize("name", ["upernet", "retinanet"])
    def test_a_head_is_no_model(self, name):
        with pytest.raises(ValueError, match=f"unknown model '{name}': it is a head, for --head"):
            create_model(name)

    def test_nothing_is_close(self):
        with pytest.raises(ValueError, match="unknown model"):
            create_model("§§§")

    def test_unknown_tag_gets_the_known_ones(self):
        with pytest.raises(ValueError, match=r"unknown weights .*test_resnet\.r160_in1k"):
            create_model("test_resnet.nope")

    def test_argument_that_the_model_lacks(self):
        with pytest.raises(TypeError, match=r"test_resnet: .*'colour'"):
            create_model("test_resnet", colour=3)


SMALL_HEADS = {
    "detection": {"head": "retinanet", "score_threshold": 0.3, "head_args": {"width": 16, "depth": 1}},
    "instances": {"head": "mask_rcnn", "score_threshold": 0.3, "head_args": {"width": 16, "hidden": 32}},
    "segmentation": {"head": "semantic_fpn"},
    "panoptic": {"head": "mask2former", "things": [True] * 7, "segment_threshold": 0.8, "overlap_threshold": 0.8},
    "classification": {},
    "multilabel": {},
}


@pytest.mark.parametrize(
    ("name", "value"), [*((name, float("nan")) for name in SMALL_HEADS), ("detection", -float("inf"))]
)
def test_weights_that_are_not_finite_are_refused(name, value, tmp_path):
    """A detector would find nothing, and say so as if there were nothing."""
    task, args = find_task(name), SMALL_HEADS[name]
    weights = task.model(task.backbone("van_pico", NAMES), NAMES, **args).state_dict()
    broken = [key for key in weights if key.endswith("weight")][-1]
    weights[broken].view(-1)[-1] = value
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    info = CheckpointInfo("van_pico", NAMES, preprocessing, task=name, task_args=args)
    save_checkpoint(tmp_path / "model.safetensors", weights, info)
    with pytest.raises(RuntimeError, match=rf"{tmp_path} has weights that are not finite \(nan or inf\): '{broken}'"):
        load_trained(tmp_path)


class TestLoading:
    def test_run_folder(self, run):
        folder, model = run
        classifier = load_trained(folder)
        assert classifier.class_names == classifier.descriptions == ["a", "b", "c"]
        assert not classifier.model.training
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(classifier.model(images), model(images))

    def test_official_file(self, official):
        path, model = official
        classifier = load_trained(path, "test_resnet")
        assert classifier.class_names[0] == "n01440764"
        assert classifier.descriptions[0] == "tench, Tinca tinca"
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(classifier.model(images), model(images))

    @pytest.mark.parametrize(
        ("name", "tensor"),
        [("fc.weight", None), ("conv1.0.weight", None), ("extra", torch.ones(1)), ("fc.bias", torch.ones(4))],
        ids=["no head", "no stem", "left over", "shape"],
    )
    def test_run_file_that_does_not_fit_is_refused(self, run, name, tensor):
        folder, model = run
        state = {key: value for key, value in (model.state_dict() | {name: tensor}).items() if value is not None}
        info = CheckpointInfo("test_resnet", ["a", "b", "c"], {"input_size": [3, 32, 32], "mean": [0.5], "std": [0.25]})
        save_checkpoint(folder / "model.safetensors", state, info)
        for load in (load_trained, lambda path: load_for_finetuning("test_resnet", path, TASK, NAMES[:3])):
            with pytest.raises(ValueError, match=rf"model\.safetensors does not fit test_resnet: .*{name}") as caught:
                load(folder)
            assert "\n" not in str(caught.value)

    def test_neither_given(self):
        with pytest.raises(ValueError, match="give --checkpoint, or --model"):
            load_trained()

    def test_file_that_does_not_know_its_model(self, official):
        with pytest.raises(ValueError, match="give --model too"):
            load_trained(official[0])

    def test_model_of_another_name(self, run):
        with pytest.raises(ValueError, match="is of the model test_resnet, not van_b0"):
            load_trained(run[0], "van_b0")

    def test_model_without_published_weights(self):
        with pytest.raises(ValueError, match="no weights of transxnet_pico"):
            load_trained(model="transxnet_pico")

    def test_model_whose_weights_no_program_can_fetch(self):
        with pytest.raises(ValueError, match=r"get the file from https://\S+ and give it with --checkpoint FILE\Z"):
            load_trained(model="conv2former_t")

    @pytest.mark.parametrize("model", ["van_b9", "van_b0.nope"])
    def test_unknown_name_is_all_that_is_said(self, official, model):
        with pytest.raises(ValueError, match=r"\Aunknown (model|weights) '[^()]*\Z"):
            load_trained(official[0], model)

    @pytest.mark.parametrize("model", ["van_pico", "test_resnet"])
    def test_pickle_of_another_protocol_is_refused_without_a_warning(self, tmp_path, recwarn, model):
        with open(tmp_path / "a.pth", "wb") as file:
            pickle.dump({"model": {"a": torch.zeros(2)}}, file, protocol=4)
        with pytest.raises(ValueError, match="cannot be loaded into"):
            load_trained(tmp_path / "a.pth", model)
        assert not any(warning.category is UserWarning for warning in recwarn)

    def test_checkpoint_of_nothing(self, tmp_path):
        torch.save({}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"the checkpoint holds no weights: it is empty\Z"):
            load_trained(tmp_path / "a.pth", "van_pico")

    @pytest.mark.parametrize("model", ["test_convnext", "transxnet_pico", "van_b0"])
    def test_weights_of_another_model(self, official, model):
        with pytest.raises(ValueError, match=f"cannot be loaded into {model}") as caught:
            load_trained(official[0], model)
        assert "\n" not in str(caught.value)

    def test_file_that_is_no_checkpoint(self, tmp_path):
        (tmp_path / "a.pth").write_text("not a checkpoint")
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_trained(tmp_path / "a.pth", "test_resnet")

    def test_file_that_would_run_code_is_refused(self, tmp_path):
        class Harm:
            def __reduce__(self):
                return open, (str(tmp_path / "harmed"), "w")

        torch.save({"state_dict": Harm()}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_trained(tmp_path / "a.pth", "test_resnet")
        assert not (tmp_path / "harmed").exists()

    def test_state_of_a_training(self, tmp_path):
        (tmp_path / "last.ckpt").write_bytes(b"x")
        with pytest.raises(ValueError, match=r"model\.safetensors beside it"):
            load_trained(tmp_path / "last.ckpt")


class TestFineTuning:
    def test_same_classes_take_all(self, run):
        folder, model = run
        started = load_for_finetuning("test_resnet", folder, TASK, NAMES[:3])
        assert torch.equal(started.get_classifier().weight, model.get_classifier().weight)

    def test_other_classes_take_all_but_the_classifier(self, run, caplog):
        folder, model = run
        started = load_for_finetuning("test_resnet", folder, TASK, NAMES[:7])
        assert "is for 3 classes, the data has 7: the classifier starts anew" in caplog.text
        assert started.num_classes == 7
        assert torch.equal(started.conv1[0].weight, model.conv1[0].weight)

    def test_official_file(self, official):
        path, model = official
        started = load_for_finetuning("test_resnet", path, TASK, NAMES[:7])
        assert started.get_classifier().weight.shape[0] == 7
        assert torch.equal(started.conv1[0].weight, model.conv1[0].weight)


class TestInputSize:
    def test_keeps_the_mode(self):
        model = timm.create_model("test_vit", img_size=32)
        check_input_size(model, (3, 32, 32))
        assert model.training

    def test_refuses_what_the_model_cannot_take(self):
        with pytest.raises(ValueError, match="--img-size: the model does not take images of 40×40 pixels"):
            check_input_size(timm.create_model("test_vit"), (3, 40, 40))


class TestDevice:
    def test_cpu(self):
        assert resolve_device("cpu") == torch.device("cpu")

    def test_auto_is_there(self):
        torch.empty(1, device=resolve_device("auto"))

    @pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", ""])
    def test_not_there(self, device):
        with pytest.raises(ValueError, match="device"):
            resolve_device(device)


class TestForeignClassifier:
    """Weights that another program saved, for classes of their own."""

    @pytest.fixture(params=["van_pico", "test_resnet"])
    def file(self, request, tmp_path):
        """What timm's own train script leaves: weights in `state_dict`, arguments beside them."""
        torch.manual_seed(0)
        model = timm.create_model(request.param, num_classes=4).eval()
        content = {"state_dict": model.state_dict(), "arch": request.param, "args": argparse.Namespace(lr=0.1)}
        torch.save(content, tmp_path / "model_best.pth.tar")
        return request.param, tmp_path / "model_best.pth.tar", model

    def test_the_number_of_classes_is_read_from_the_file(self, file):
        name, path, model = file
        classifier = load_trained(path, name)
        assert classifier.class_names == ["0", "1", "2", "3"]
        images = torch.randn(2, 3, 64, 64)
        assert torch.equal(classifier.model(images), model(images))

    def test_it_is_kept_for_as_many_classes(self, file, caplog):
        name, path, model = file
        started = load_for_finetuning(name, path, TASK, NAMES[:4])
        assert torch.equal(started.get_classifier().weight, model.get_classifier().weight)
        assert "anew" not in caplog.text

    def test_it_starts_anew_for_others_and_a_note_says_so(self, file, caplog):
        name, path, model = file
        started = load_for_finetuning(name, path, TASK, NAMES[:6])
        assert started.num_classes == 6
        assert f"{path} is for 4 classes, the data has 6: the classifier starts anew" in caplog.text
        first = next(iter(model.state_dict()))
        assert torch.equal(started.state_dict()[first], model.state_dict()[first])
