"""Files of dense models: the authors' wrappings, heads alone, classifiers', and files that do not fit."""

import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import glocal
from golden.dense import dense_weights, head_weights
from golden.official import fill_official

ARGS = dict(name="semantic_fpn", backbone="van_b0")


@pytest.fixture(scope="module")
def weights():
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in WEIGHTS.items()}


WEIGHTS = dense_weights("sfpn", "van_b0")


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def loaded(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "plain.pth"
    torch.save(weights, path)
    return glocal.create(**ARGS, checkpoint=path)


class Foreign:
    """An object of a training library, with state and arguments."""

    def __init__(self, name="hub"):
        self.name, self.history = name, [np.arange(3)]

    def __reduce_ex__(self, protocol):
        return (Foreign, (self.name,), self.__dict__)


class ByNewobj:
    def __init__(self):
        self.scalars = OrderedDict(loss=np.float64(0.5))


def mmcv(weights):
    meta = {"CLASSES": ("wall",), "iter": 160000, "hook_msgs": {"best_score": np.float64(0.41)}, "env_info": "torch"}
    return {"meta": meta, "state_dict": OrderedDict(weights), "optimizer": {"state": {}, "param_groups": []}}


def mmengine(weights):
    return {
        "meta": {"experiment_name": "run"},
        "state_dict": OrderedDict(weights),
        "message_hub": ByNewobj(),
        "param_schedulers": [Foreign()],
    }


@pytest.mark.parametrize("wrap", [mmcv, mmengine, lambda w: {"state_dict": {f"module.{n}": t for n, t in w.items()}}])
def test_wrappings(wrap, weights, loaded, tmp_path):
    torch.save(wrap(weights), tmp_path / "wrapped.pth")
    same(glocal.create(**ARGS, checkpoint=tmp_path / "wrapped.pth"), loaded)


def test_our_own_file(loaded, tmp_path):
    torch.save(loaded.state_dict(), tmp_path / "ours.pt")
    same(glocal.create(**ARGS, checkpoint=tmp_path / "ours.pt"), loaded)


def test_the_head_alone(loaded, tmp_path, caplog):
    torch.save(head_weights("sfpn", "van_b0"), tmp_path / "head.pth")
    model = glocal.create(**ARGS, checkpoint=tmp_path / "head.pth")
    same(model.head, loaded.head)
    assert "the head alone" in caplog.text


def test_our_head_alone(loaded, tmp_path):
    heads = {name: tensor for name, tensor in loaded.state_dict().items() if name.startswith("head.")}
    torch.save(heads, tmp_path / "head.pth")
    same(glocal.create(**ARGS, checkpoint=tmp_path / "head.pth").head, loaded.head)


def test_the_state_dict_of_the_head(loaded, tmp_path, caplog):
    torch.save(loaded.head.state_dict(), tmp_path / "head.pth")
    same(glocal.create(**ARGS, checkpoint=tmp_path / "head.pth").head, loaded.head)
    assert "the head alone" in caplog.text


def test_a_file_without_the_auxiliary_head(tmp_path, caplog):
    there = glocal.create("upernet", "van_pico", num_classes=3)
    torch.save(there.head.state_dict(), tmp_path / "head.pth")
    same(glocal.create("upernet", "van_pico", num_classes=3, checkpoint=tmp_path / "head.pth").head, there.head)
    assert "no weights of the auxiliary head" in caplog.text
    torch.save(dict(list(there.state_dict().items())[:-1]), tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"1 missing: auxiliary\.classifier\.bias"):
        glocal.create("upernet", "van_pico", num_classes=3, checkpoint=tmp_path / "part.pth")


def test_the_folder_of_a_run(loaded, tmp_path):
    save_file(loaded.state_dict(), tmp_path / "model.safetensors")
    same(glocal.create(**ARGS, checkpoint=tmp_path), loaded)


@pytest.mark.parametrize("backbone", ["van_b0", "transxnet_t"])
def test_a_classifier_starts_the_backbone(backbone, tmp_path, caplog):
    torch.save({"state_dict": fill_official(backbone)}, tmp_path / "classifier.pth")
    model = glocal.create("semantic_fpn", backbone, checkpoint=tmp_path / "classifier.pth")
    assert "the head starts anew" in caplog.text
    name = "patch_embed1.proj.weight" if backbone == "van_b0" else "patch_embed.proj.conv.weight"
    assert torch.equal(model.backbone.model.stem.conv.weight, fill_official(backbone)[name].float())
    if backbone == "transxnet_t":  # the authors start these norms anew
        assert torch.equal(model.backbone.model.stages[3].norm.weight, torch.ones(448))


def test_what_is_no_tensor_is_never_built(weights, tmp_path, monkeypatch):
    """A class that can be imported is not, and a function of the system is not called."""
    module = types.ModuleType("strangers")
    module.built = []

    class Stranger:
        def __init__(self, *_):
            module.built.append(1)

    Stranger.__module__, Stranger.__qualname__ = "strangers", "Stranger"
    module.Stranger = Stranger
    monkeypatch.setitem(sys.modules, "strangers", module)

    class Calls:
        def __reduce__(self):
            return Stranger, ("argument",)

    torch.save(mmcv(weights) | {"hub": Calls()}, tmp_path / "stranger.pth")
    module.built.clear()
    glocal.create(**ARGS, checkpoint=tmp_path / "stranger.pth")
    assert module.built == []


class Command:
    def __reduce__(self):
        import os

        return os.system, ("touch hacked",)


def test_a_command_in_a_file_does_not_run(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(mmcv(weights) | {"hub": Command()}, tmp_path / "command.pth")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        glocal.create(**ARGS, checkpoint=tmp_path / "command.pth")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {n: t for n, t in w.items() if not n.endswith("conv_seg.bias")}, "1 missing: head.classifier.bias"),
        (lambda w: w | {"decode_head.more": torch.zeros(2)}, "1 left over: head.more"),
        (lambda w: w | {"decode_head.conv_seg.bias": torch.zeros(7)}, "of another shape: head.classifier.bias"),
        (lambda w: {n: t for n, t in w.items() if "patch_embed3" not in n}, "missing: stages.2.downsample"),
        (lambda w: {"meta": 1}, "holds no weights"),
    ],
)
def test_a_file_that_does_not_fit(change, message, weights, tmp_path):
    torch.save(change(weights), tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=message):
        glocal.create(**ARGS, checkpoint=tmp_path / "wrong.pth")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1])])
def test_no_checkpoint(content, tmp_path):
    (tmp_path / "no.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"no\.pth is not a checkpoint"):
        glocal.create(**ARGS, checkpoint=tmp_path / "no.pth")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        glocal.create(**ARGS, checkpoint=tmp_path / "no.pth")
