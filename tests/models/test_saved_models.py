"""Models saved as the Hugging Face Hub has them, loaded from a folder by timm and by transformers."""

import json

import pytest
import timm
import torch
from timm.models import save_for_hf

import glocal  # noqa: F401 (registers the models)
from glocal.data.preprocessing import Preprocessing
from glocal.tasks import find_task
from glocal.tasks.checkpoint import save_checkpoint
from glocal.tasks.creation import registered
from glocal.tasks.description import CheckpointInfo
from glocal.tasks.loading import load_for_finetuning, load_trained

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
FAMILIES = ["transxnet_pico", "transnext_pico", "hat_net_pico", "transcnn_pico", "conv2former_pico", "van_pico"]


@pytest.fixture(params=["safetensors", "pickle"])
def safe(request):
    return request.param == "safetensors"


@pytest.fixture
def saved(tmp_path):
    """A function that saves a model of 5 classes in a folder; it returns the model and timm's name of the folder."""

    def save(name, safe=True, **args):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, **args).eval()
        save_for_hf(model, tmp_path / "saved", safe_serialization=safe)
        return model, f"local-dir:{tmp_path / 'saved'}"

    return save


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_loads_what_was_saved(name, saved):
    model, folder = saved(name)
    loaded = timm.create_model(folder, pretrained=True).eval()
    assert loaded.num_classes == 5
    assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_as_a_pickle_too(saved, safe):
    model, folder = saved("van_pico", safe)
    assert torch.equal(timm.create_model(folder, pretrained=True).eval()(IMAGES), model(IMAGES))


def test_arguments_come_along(saved):
    model, folder = saved("van_pico", depths=(1, 1, 1, 1), layer_scale=0.5)
    loaded = timm.create_model(folder, pretrained=True).eval()
    assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_for_another_number_of_classes(saved):
    model, folder = saved("van_pico")
    loaded = timm.create_model(folder, pretrained=True, num_classes=3).eval()
    assert loaded(IMAGES).shape == (2, 3)
    assert torch.equal(loaded.forward_features(IMAGES), model.forward_features(IMAGES))


def test_for_another_number_of_channels(saved):
    model, folder = saved("van_pico")
    loaded = timm.create_model(folder, pretrained=True, in_chans=1).eval()
    assert torch.allclose(loaded.stem.conv.weight, model.stem.conv.weight.sum(1, keepdim=True))
    assert torch.equal(loaded.head.fc.weight, model.head.fc.weight)


def test_for_features(saved):
    model, folder = saved("van_pico")
    features = timm.create_model(folder, pretrained=True, features_only=True).eval()
    expected = model.forward_intermediates(IMAGES, intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(features(IMAGES), expected, strict=True))


def test_without_weights_it_is_the_architecture(saved):
    model, folder = saved("van_pico")
    assert timm.create_model(folder).state_dict().keys() == model.state_dict().keys()


def test_a_folder_of_another_models_weights(saved, tmp_path):
    _, folder = saved("van_pico")
    config = tmp_path / "saved" / "config.json"
    config.write_text(config.read_text().replace("van_pico", "hat_net_pico"))
    with pytest.raises(ValueError, match="not a checkpoint of this HAT-Net model"):
        timm.create_model(folder, pretrained=True)


def test_a_folder_whose_weights_are_damaged(saved, tmp_path):
    _, folder = saved("van_pico", safe=False)
    file = tmp_path / "saved" / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="saved is not a checkpoint, or is damaged"):
        timm.create_model(folder, pretrained=True)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no config\.json of a timm model"):
        load_trained(model=f"local-dir:{tmp_path / 'nowhere'}")


class TestOnTheCommandLine:
    """`--model local-dir:…` of predict, eval, export and train."""

    def test_it_predicts(self, saved):
        model, folder = saved("van_pico")
        classifier = load_trained(model=folder)
        assert classifier.class_names == list("01234")
        assert torch.equal(classifier.model(IMAGES), model(IMAGES))

    def test_it_is_trained_further(self, saved, caplog):
        model, folder = saved("van_pico", drop_rate=0.1)
        started = load_for_finetuning(folder, None, find_task("classification"), list(map(str, range(5))))
        assert torch.equal(started.head.fc.weight, model.head.fc.weight)
        assert "anew" not in caplog.text
        assert load_for_finetuning(folder, None, find_task("classification"), list(map(str, range(4)))).num_classes == 4
        assert "is for 5 classes, the data has 4: the classifier starts anew" in caplog.text

    def test_its_checkpoint_names_the_architecture(self, saved):
        _, folder = saved("van_pico", depths=(1, 1, 1, 1))
        name, arguments = registered(folder, {"drop_rate": 0.1})
        assert name == "van_pico"
        assert arguments == {"depths": [1, 1, 1, 1], "in_chans": 3, "global_pool": "avg", "drop_rate": 0.1}

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "van_pico: a checkpoint cannot hold the argument"),
            ({"model_args": {"depths": [10**6] * 4}}, "the argument depths"),
            ({"model_args": ["depths"]}, "configuration cannot be read"),
            ({"architecture": "../x"}, r"names no model that timm knows, but '\.\./x'"),
            ({"architecture": 3}, "names no model that timm knows, but 3"),
            ({"pretrained_cfg": 3}, "configuration cannot be read"),
            ({"label_names": ["a"] * 5}, "the class names hold one twice"),
            ({"label_names": ["a", "b"]}, "there are 2 class names for 5 classes"),
            ({"label_names": {"a": 1}}, "the class names: Expected `array`"),
        ],
    )
    def test_a_strangers_configuration_is_checked(self, changes, reason, saved, tmp_path):
        _, folder = saved("van_pico")
        config = tmp_path / "saved" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        with pytest.raises(ValueError, match=reason) as error:
            load_trained(model=folder)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("changes", [{"crop_pct": 1e-9}, {"std": [0, 0, 0]}, {"input_size": [3, 10**6, 10**6]}])
    def test_a_strangers_preprocessing_is_checked(self, changes, saved, tmp_path):
        _, folder = saved("van_pico")
        config = tmp_path / "saved" / "config.json"
        content = json.loads(config.read_text())
        config.write_text(json.dumps(content | {"pretrained_cfg": content["pretrained_cfg"] | changes}))
        with pytest.raises(ValueError, match=r"local-dir:\S*: the preprocessing: (Expected|crop_pct 1e-09)"):
            load_trained(model=folder)

    def test_names_of_classes_come_along(self, saved, tmp_path):
        model, folder = saved("van_pico")
        save_for_hf(model, tmp_path / "saved", model_config={"label_names": list("abcde")}, safe_serialization=True)
        assert load_trained(model=folder).class_names == list("abcde")


def test_a_run_folder_saved_as_the_page_says_is_the_same_classifier(tmp_path):
    preprocessing = Preprocessing((3, 32, 40), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), "bicubic", 0.8, "squash")
    model = timm.create_model("van_pico", num_classes=3)
    info = CheckpointInfo("van_pico", ["ant", "bee", "cat"], preprocessing.to_dict())
    save_checkpoint(tmp_path / "model.safetensors", model.state_dict(), info)
    run = load_trained(tmp_path)
    names = {"label_names": run.class_names}
    save_for_hf(run.model, tmp_path / "saved", names, data_config=run.preprocessing, safe_serialization=True)
    loaded = load_trained(model=f"local-dir:{tmp_path / 'saved'}")
    assert loaded.class_names == run.class_names
    assert Preprocessing(**loaded.preprocessing) == preprocessing
    assert torch.equal(loaded.model(IMAGES), model.eval()(IMAGES))


def test_transformers_loads_the_folder(saved, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, _ = saved("van_pico")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    del config["model_args"]["num_classes"]  # transformers 5.24 gives it too, and two are an error, for any timm model
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    assert torch.allclose(loaded(IMAGES).logits, model(IMAGES), atol=1e-6)
