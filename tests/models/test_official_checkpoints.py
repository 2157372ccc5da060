"""The authors' checkpoints load, however they were saved; what is not one, or would run code, is refused."""

import argparse
import os
import pathlib
import pickle
from functools import cache

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from agreement import random
from glocal.models import FAMILIES, official
from golden.official import official_keys

pytestmark = pytest.mark.usefixtures("one_thread")

# The published variant whose names the small model's checkpoint has.
PUBLISHED = {
    "transxnet_pico": "transxnet_t",
    "transnext_pico": "transnext_micro",
    "hat_net_pico": "hat_net_tiny",
    "transcnn_pico": "transcnn_tiny",
    "conv2former_pico": "conv2former_n",
    "van_pico": "van_b0",
}
PICO = list(PUBLISHED)


def load(name, file, **kwargs):
    overlay = dict(file=str(file), **kwargs.pop("overlay", {}))
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)


@cache
def renamed(name) -> dict[str, str]:
    """Official name → ours, for what the small model has."""
    family = next(module for module in FAMILIES.values() if name in module.default_cfgs)
    ours = {key: official.rename(key, family.RENAMES) for key in official_keys(PUBLISHED[name])}
    own = timm.create_model(name, device="meta").state_dict()
    return {key: value for key, value in ours.items() if value in own}


def official_shape(shape, own):
    """`own`, in the axes that the authors' tensor has: (C, 1, 1) may be (C,), (C, 1, 1, 1), (1, C, 1), …"""
    if len(shape) == len(own):
        return tuple(own)
    sizes = own if sum(n != 1 for n in shape) == len(own) else [n for n in own if n != 1] or [1]
    sizes = iter(sizes)
    return tuple(1 if n == 1 else next(sizes) for n in shape)


@cache
def expected(name) -> dict[str, torch.Tensor]:
    """Our state dict with random values."""
    own = timm.create_model(name, device="meta").state_dict()
    values = {}
    for i, (key, tensor) in enumerate(own.items()):
        integer = not tensor.is_floating_point()
        values[key] = torch.tensor(i) if integer else random(*tensor.shape, seed=i, dtype=torch.float32).abs()
    return values


def checkpoint(name) -> dict[str, torch.Tensor]:
    """The same values under the authors' names and in their shapes."""
    values, shapes = expected(name), official_keys(PUBLISHED[name])
    state = {
        key: values[ours].reshape(official_shape(shapes[key], values[ours].shape))
        for key, ours in renamed(name).items()
    }
    assert set(renamed(name).values()) == set(values)
    if name == "hat_net_pico":  # a norm that the authors own but never use
        state |= {"blocks.0.0.attn.proj_norm.weight": torch.ones(24), "blocks.0.0.attn.proj_norm.bias": torch.ones(24)}
    return state


def assert_loaded(model, name, but=()):
    """Every value came from the checkpoint, but for the names that start with one of `but`."""
    values = expected(name)
    for key, tensor in model.state_dict().items():
        if not key.startswith(tuple(but)):
            assert torch.equal(tensor, values[key]), key


@pytest.mark.parametrize("name", PICO)
def test_plain(name, tmp_path):
    torch.save(checkpoint(name), tmp_path / "official.pth")
    assert_loaded(load(name, tmp_path / "official.pth"), name)


WRAPPINGS = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 299, "optimizer": {"state": {}}},
    "model": lambda state: {"model": state, "arch": "van", "metric": 81.6},
    "averaged": lambda state: {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state},
    "model_ema": lambda state: {"model": {k: v * 0 for k, v in state.items()}, "model_ema": state},
    "averaged_beside_model": lambda state: {"model": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state},
    "model_ema_beside_state_dict": lambda state: {
        "state_dict": {k: v * 0 for k, v in state.items()},
        "model_ema": state,
    },
    "averaged_within": lambda state: {"model": {"state_dict": {"other": torch.ones(1)}, "state_dict_ema": state}},
    "twice": lambda state: {"state_dict": {"model": state}},
    "no_average": lambda state: {"state_dict": state, "state_dict_ema": None},
    "meta": lambda state: {"meta": {"config": "…"}, "state_dict": state},
}
PREFIXES = ["module.", "backbone.", "module.backbone.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize(
    ("wrapping", "prefix"),
    [*((wrapping, "") for wrapping in WRAPPINGS), *(("state_dict", prefix) for prefix in PREFIXES)],
)
def test_wrapped_and_prefixed(wrapping, prefix, tmp_path):
    state = {prefix + key: value for key, value in checkpoint("van_pico").items()}
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "official.pth")
    assert_loaded(load("van_pico", tmp_path / "official.pth"), "van_pico")
    in_memory = dict(state_dict=WRAPPINGS[wrapping](state))  # which timm does not unwrap before we do
    assert_loaded(timm.create_model("van_pico", pretrained=True, pretrained_cfg_overlay=in_memory), "van_pico")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=1e-3, data="/data/imagenet", opt_betas=None),
        np.float64(81.6),
        np.float32(81.6),
        np.int64(299),
        np.bool_(True),
        pathlib.PurePosixPath("runs") / "1" if os.name != "posix" else pathlib.Path("runs/1"),
        argparse.Namespace(output=pathlib.Path("runs"), best=np.float64(81.6), size=[3, 224, 224]),
    ],
    ids=["namespace", "float64", "float32", "int64", "bool", "path", "all"],
)
def test_what_training_scripts_pickle_beside_the_weights(beside, zipped, tmp_path):
    file = tmp_path / "official.pth.tar"
    content = {"state_dict": checkpoint("van_pico"), "beside": beside}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert_loaded(load("van_pico", file), "van_pico")


def test_numpy_scalars_under_their_old_name(tmp_path):
    """NumPy 1 called the module numpy.core."""
    file = tmp_path / "official.pth"
    torch.save(
        {"state_dict": checkpoint("van_pico"), "best": np.float64(81.6)}, file, _use_new_zipfile_serialization=False
    )
    data = file.read_bytes()
    assert data.count(b"cnumpy._core.multiarray\nscalar\n") == 1
    file.write_bytes(data.replace(b"cnumpy._core.multiarray\nscalar\n", b"cnumpy.core.multiarray\nscalar\n"))
    assert_loaded(load("van_pico", file), "van_pico")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_are_converted(dtype, tmp_path):
    state = {key: v.to(dtype) if v.is_floating_point() else v for key, v in checkpoint("transnext_pico").items()}
    torch.save(state, tmp_path / "official.pth")
    model = load("transnext_pico", tmp_path / "official.pth")
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == expected("transnext_pico")[key].dtype
        assert torch.equal(tensor, expected("transnext_pico")[key].to(dtype).to(tensor.dtype)), key


class Runs:
    """Unpickling it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "named"), [(os.system, r"posix\.system"), (eval, "eval"), (os.mkdir, r"posix\.mkdir")]
)
def test_a_file_that_would_run_code_is_refused(function, named, zipped, tmp_path):
    trace = tmp_path / "trace"
    argument = f"mkdir {trace}" if function is os.system else str(trace)
    if function is eval:
        argument = f"__import__('os').mkdir({str(trace)!r})"
    file = tmp_path / "official.pth"
    content = {"state_dict": checkpoint("van_pico"), "args": Runs(function, argument)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RuntimeError, match=rf"refused to load .*official\.pth: it needs {named}, which can run code"):
        load("van_pico", file)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_that_would_run_code_is_refused(protocol, tmp_path):
    file = tmp_path / "official.pth"
    file.write_bytes(pickle.dumps({"a": 1, "args": Runs(os.mkdir, str(tmp_path / "trace"))}, protocol))
    with pytest.raises(
        RuntimeError, match=r"refused to load .*official\.pth: it needs posix\.mkdir, which can run code"
    ):
        load("van_pico", file)
    assert not (tmp_path / "trace").exists()


class Unknown:
    """A class of somebody's training script."""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_an_unknown_class_is_refused_by_name(zipped, tmp_path):
    file = tmp_path / "official.pth"
    torch.save({"model": checkpoint("van_pico"), "x": Unknown()}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RuntimeError, match=r"it needs \S*Unknown, which can run code"):
        load("van_pico", file)


def test_loading_leaves_no_global_allowed(tmp_path):
    torch.save(checkpoint("van_pico"), tmp_path / "official.pth")
    before = set(torch.serialization.get_safe_globals())
    load("van_pico", tmp_path / "official.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def refusal(name, state, tmp_path, **kwargs) -> str:
    torch.save(state, tmp_path / "official.pth")
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:  # one line
        load(name, tmp_path / "official.pth", **kwargs)
    return str(error.value)


@pytest.mark.parametrize("name", PICO)
def test_another_familys_checkpoint(name, tmp_path):
    other = PICO[(PICO.index(name) + 1) % len(PICO)]
    message = refusal(name, checkpoint(other), tmp_path)
    assert message.startswith("not a checkpoint of this ")
    assert " missing: " in message
    assert " left over: " in message
    assert " more" in message
    assert len(message) < 1500


def test_missing_names(tmp_path):
    state = checkpoint("van_pico")
    del state["block1.0.mlp.fc1.weight"], state["head.bias"]
    message = refusal("van_pico", state, tmp_path)
    expected = "2 missing: stages.0.blocks.0.channel_mixer.fc1.weight, head.fc.bias"
    assert message == f"not a checkpoint of this VAN model: {expected}"


def test_left_over_names(tmp_path):
    state = checkpoint("hat_net_pico") | {f"extra{i}.weight": torch.ones(1) for i in range(9)}
    message = refusal("hat_net_pico", state, tmp_path)
    assert "9 left over: extra0.weight, extra1.weight, extra2.weight, extra3.weight, extra4.weight, … 4 more" in message
    assert "missing" not in message


def test_a_tensor_of_other_axes_is_refused(tmp_path):
    """Axes of length one may be added or dropped, and no other change is made to fit."""
    state = checkpoint("van_pico")
    state["block1.0.mlp.fc1.weight"] = state["block1.0.mlp.fc1.weight"].transpose(0, 1).contiguous()
    assert "fc1.weight (24, 96, 1, 1) for (96, 24, 1, 1)" in refusal("van_pico", state, tmp_path)


def test_other_shapes(tmp_path):
    state = checkpoint("van_pico")
    state["block1.0.mlp.fc1.weight"] = torch.ones(7, 24, 1, 1)
    assert refusal("van_pico", state, tmp_path).endswith(
        "1 of another shape: stages.0.blocks.0.channel_mixer.fc1.weight (7, 24, 1, 1) for (96, 24, 1, 1)"
    )


def of_7_classes(tmp_path, content=lambda state: state):
    """A file of the authors' names for 7 classes."""
    state = checkpoint("van_pico")
    state["head.weight"] = torch.arange(7 * 160.0).view(7, 160)
    state["head.bias"] = torch.arange(7.0)
    torch.save(content(state), tmp_path / "official.pth")
    return tmp_path / "official.pth"


class TestAnotherNumberOfClasses:
    @pytest.mark.parametrize("classes", [{}, {"num_classes": 7}])
    def test_the_classifier_of_the_file_is_kept(self, classes, tmp_path, caplog):
        model = load("van_pico", of_7_classes(tmp_path), **classes)
        assert torch.equal(model.head.fc.weight, torch.arange(7 * 160.0).view(7, 160))
        assert torch.equal(model.head.fc.bias, torch.arange(7.0))
        assert model.num_classes == 7
        assert "anew" not in caplog.text

    def test_for_other_classes_it_starts_anew_and_a_note_says_so(self, tmp_path, caplog):
        model = load("van_pico", of_7_classes(tmp_path), num_classes=1000)
        assert model.head.fc.weight.shape == (1000, 160)
        assert "official.pth is for 7 classes, the data has 1000: the classifier starts anew" in caplog.text

    @pytest.mark.parametrize("args", [{"num_classes": 0}, {"features_only": True}])
    def test_without_a_classifier_nothing_is_said(self, args, tmp_path, caplog):
        load("van_pico", of_7_classes(tmp_path), **args)
        assert "anew" not in caplog.text

    def test_the_rest_has_to_fit_all_the_same(self, tmp_path):
        def broken(state):
            return {**state, "block1.0.mlp.fc1.weight": torch.ones(7, 24, 1, 1), "extra": torch.ones(1)}

        file = of_7_classes(tmp_path, broken)
        with pytest.raises(ValueError, match=r"1 left over: extra; 1 of another shape: stages\.0"):
            load("van_pico", file, num_classes=10)

    def test_a_classifier_that_is_no_matrix(self, tmp_path):
        file = of_7_classes(tmp_path, lambda state: {**state, "head.weight": torch.ones(160)})
        with pytest.raises(ValueError, match=r"head\.fc\.weight \(160,\) for \(1000, 160\)"):
            load("van_pico", file)


@pytest.mark.parametrize("kwargs", [{"num_classes": 7}, {"in_chans": 1}, {"num_classes": 7, "in_chans": 4}], ids=str)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"block1.0.mlp.fc1.weight": None}, "1 missing: stages.0.blocks.0.channel_mixer.fc1.weight"),
        ({"extra.weight": torch.ones(1)}, "1 left over: extra.weight"),
        (
            {"block1.0.mlp.fc1.weight": torch.ones(7, 24, 1, 1)},
            "1 of another shape: stages.0.blocks.0.channel_mixer.fc1.weight (7, 24, 1, 1) for (96, 24, 1, 1)",
        ),
    ],
    ids=["missing", "left over", "shape"],
)
def test_the_rest_is_as_strict_for_other_classes_and_channels(change, problem, kwargs, tmp_path):
    state = {name: tensor for name, tensor in (checkpoint("van_pico") | change).items() if tensor is not None}
    message = refusal("van_pico", state, tmp_path, **kwargs)
    assert message == f"not a checkpoint of this VAN model: {problem}"


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}], ids=["empty", "epoch", "wrapped"])
def test_no_weights_at_all(content, tmp_path):
    assert "the checkpoint holds no weights" in refusal("van_pico", content, tmp_path)


def whole_file(path, suffix) -> bytes:
    if suffix == ".safetensors":
        save_file(expected("van_pico"), path)
    else:
        torch.save(expected("van_pico"), path, _use_new_zipfile_serialization=suffix == ".zip.pth")
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".zip.pth", ".legacy.pth", ".safetensors"])
@pytest.mark.parametrize("content", ["half", "empty", "page", "text", "image"])
def test_no_checkpoint_or_a_damaged_one(content, suffix, tmp_path):
    file = tmp_path / f"broken{suffix}"
    whole = whole_file(file, suffix)
    page, text, picture = (
        b"<!DOCTYPE html><html>Sign in",
        b"hello world, hello",
        b"\x89PNG\r\n\x1a\n" + bytes(range(99)),
    )
    file.write_bytes(dict(half=whole[: len(whole) // 2], empty=b"", page=page, text=text, image=picture)[content])
    with pytest.raises(ValueError, match=rf"\A\S+broken{suffix} is not a checkpoint, or is damaged\Z"):
        load("van_pico", file)


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), None], ids=["list", "tensor", "none"])
def test_no_state_dict(content, tmp_path):
    assert refusal("van_pico", content, tmp_path).endswith("official.pth is not a checkpoint, or is damaged")


@pytest.mark.parametrize("name", ["missing.pth", "folder", "missing.safetensors"])
def test_a_missing_file_is_named(name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        load("van_pico", tmp_path / name)


# Parts of a checkpoint ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICO)
def test_features_only(name, tmp_path):
    torch.save(checkpoint(name), tmp_path / "official.pth")
    model = load(name, tmp_path / "official.pth", features_only=True)
    assert_loaded(model.model, name)
    assert len(model(torch.zeros(1, 3, 32, 32))) == 4
    model = load(name, tmp_path / "official.pth", features_only=True, out_indices=(1,), in_chans=1)
    assert_loaded(model.model, name, but=("stem.conv.weight", "stem.conv1.weight"))
    backbone_alone = {k: v for k, v in checkpoint(name).items() if not renamed(name).get(k, "").startswith("head.")}
    torch.save(backbone_alone, tmp_path / "official.pth")
    assert_loaded(load(name, tmp_path / "official.pth", features_only=True).model, name)
    with pytest.raises(ValueError, match=r"missing: .*head\.fc\.weight"):
        load(name, tmp_path / "official.pth")


@pytest.mark.parametrize("pool", ["avg", "max", ""])
@pytest.mark.parametrize("name", PICO)
def test_no_classes(name, pool, tmp_path):
    torch.save(checkpoint(name), tmp_path / "official.pth")
    model = load(name, tmp_path / "official.pth", num_classes=0, global_pool=pool)
    assert_loaded(model, name)
    assert model(torch.zeros(1, 3, 32, 32)).shape[1] == model.head_hidden_size


@pytest.mark.parametrize("name", PICO)
def test_other_classes_and_channels(name, tmp_path):
    """timm's rule: the classifier starts anew, the first convolution is summed or repeated over the channels."""
    torch.save(checkpoint(name), tmp_path / "official.pth")
    conv = timm.create_model(name, device="meta").pretrained_cfg["first_conv"] + ".weight"
    weight = expected(name)[conv]

    model = load(name, tmp_path / "official.pth", num_classes=7, in_chans=1)
    assert_loaded(model, name, but=("head.fc.", conv))
    torch.testing.assert_close(model.state_dict()[conv], weight.sum(1, keepdim=True))
    assert tuple(model(torch.zeros(2, 1, 32, 32)).shape) == (2, 7)
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.head.fc.bias.abs().sum() == 0

    model = load(name, tmp_path / "official.pth", in_chans=4)
    assert_loaded(model, name, but=(conv,))
    torch.testing.assert_close(model.state_dict()[conv], torch.cat([weight, weight[:, :1]], 1) * 3 / 4)
    assert tuple(model(torch.zeros(2, 4, 32, 32)).shape) == (2, 1000)


def test_a_state_dict_in_memory_is_left_as_it_is():
    state = checkpoint("van_pico")
    before = dict(state)
    overlay = dict(state_dict=state)
    model = timm.create_model("van_pico", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1)
    assert_loaded(model, "van_pico", but=("head.fc.", "stem.conv.weight"))
    assert list(state) == list(before)
    assert all(state[key] is before[key] for key in state)


# Our own files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", PICO)
def test_our_own_file_round_trips(name, suffix, tmp_path):
    file = tmp_path / f"ours{suffix}"
    model = timm.create_model(name)
    model.load_state_dict(expected(name))
    if suffix == ".pth":
        torch.save(model.state_dict(), file)
    else:
        save_file(model.state_dict(), file)
        assert set(load_file(file)) == set(expected(name))
    assert_loaded(load(name, file), name)
    assert_loaded(load(name, file, features_only=True, out_indices=(0, 2)).model, name)


def test_official_names_in_a_safetensors_file(tmp_path):
    save_file(
        {key: value.contiguous() for key, value in checkpoint("conv2former_pico").items()}, tmp_path / "o.safetensors"
    )
    assert_loaded(load("conv2former_pico", tmp_path / "o.safetensors"), "conv2former_pico")


def test_features_only_weights_load_again(tmp_path):
    """A feature extractor's own state dict, whose names start with `model.`, is a backbone's."""
    features = timm.create_model("van_pico", features_only=True)
    torch.save(features.state_dict(), tmp_path / "features.pth")
    features.load_state_dict(torch.load(tmp_path / "features.pth", weights_only=True))


# TransXNet's position encodings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("img_size", [96, (64, 160)], ids=str)
def test_a_position_encoding_of_another_size_is_resized(img_size, tmp_path):
    name = "transxnet_pico"
    torch.save(checkpoint(name), tmp_path / "official.pth")
    model = load(name, tmp_path / "official.pth", img_size=img_size)
    encodings = [f"stages.{i}.position.encoding" for i in range(4)]
    assert_loaded(model, name, but=encodings)
    for key in encodings:
        source, tensor = expected(name)[key], model.state_dict()[key]
        assert source.shape != tensor.shape
        resized = F.interpolate(source, tuple(tensor.shape[2:]), mode="bicubic", align_corners=False)
        torch.testing.assert_close(tensor, resized)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_position_encoding_in_half_precision_is_resized_in_float32(dtype, tmp_path):
    name = "transxnet_pico"
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in checkpoint(name).items()}
    torch.save(state, tmp_path / "official.pth")
    model = load(name, tmp_path / "official.pth", img_size=96)
    for key in (f"stages.{i}.position.encoding" for i in range(4)):
        tensor = model.state_dict()[key]
        source = expected(name)[key].to(dtype).float()
        resized = F.interpolate(source, tuple(tensor.shape[2:]), mode="bicubic", align_corners=False)
        assert torch.equal(tensor, resized.to(dtype).float()), key


def test_an_encoding_with_other_heads_is_no_other_size(tmp_path):
    state = checkpoint("transxnet_pico")
    state["relative_pos_enc.1"] = torch.ones(1, 3, 784, 49)
    assert "stages.1.position.encoding (1, 3, 784, 49) for (1, 2, 784, 49)" in refusal(
        "transxnet_pico", state, tmp_path
    )


def test_an_encoding_of_the_384_checkpoint_fits_its_tag():
    model = timm.create_model("transxnet_b.in1k_384", device="meta")
    assert tuple(model.stages[0].position.encoding.shape) == (1, 2, 96 * 96, 12 * 12)
