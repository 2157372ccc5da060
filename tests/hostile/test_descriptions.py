"""Checkpoints from a stranger: they load, or they are refused in one line; nothing else happens."""

import copy
import io
import json
import random
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from glocal.cli import main
from glocal.tasks.checkpoint import METADATA_KEY
from glocal.tasks.loading import load_trained
from hostile.watch import watching

GOOD = {
    "model": "test_resnet",
    "class_names": ["ant", "bee", "cat"],
    "preprocessing": {
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
    },
    "metrics": {"loss": 0.5, "top1": 90.0, "epoch": 3},
    "data": {
        "name": "pets",
        "held_out": {"val_fraction": 0.2, "seed": 1, "files": "ab", "group": "a", "val": "gA=="},
        "args": {"masks": "labels", "names": ["a"]},
    },
    "model_args": {},
    "versions": {"glocal": "0.1.0", "timm": "1.0.31", "torch": "2.15.0"},
}
DEEP = "[" * 50_000 + "]" * 50_000
VALUES = [
    *[None, True, False, 0, -1, 1, 2, 0.0, -0.5, 1e-300, 1e300, 2**31, 2**63, 10**30, 10**400],
    *["", " ", ".", "..", "/", "x", "\x1b[2J", "a\nb", "\u202e", "\0", "é" * 5000, "pipe:touch x", "../../etc"],
    *["test_resnet.", ".test_resnet", "van_b0", "hf-hub:a/b", "local-dir:/etc", "hf_hub:timm/resnet18.a1_in1k"],
    *[[], [[]], [None], ["a", "a"], [1], ["x"] * 3, ["", "b", "c"]],
    *[[0, 0, 0], [3, 0, 32], [3, 32], [3, 10**6, 10**6], [3, -32, 32], [1e-30] * 3, [1e300] * 3],
    *[{}, {"": 1}, {"a": {"b": [{}]}}],
    *[{"pretrained": True}, {"checkpoint_path": "/etc/passwd"}, {"cache_dir": "/tmp/x"}, {"features_only": True}],
    {"pretrained_cfg_overlay": {"url": "data:text/plain;base64,eA=="}, "pretrained": True},
    {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth"}, "pretrained": True},
    *[{"pretrained_cfg": {"file": "/etc/passwd"}}, {"depths": [1_000_000] * 4}, {"num_classes": 5}, {"img_size": 8192}],
    *[{"in_chans": 64}, {"global_pool": ""}, {"global_pool": "x"}, {"drop_path_rate": 1}, {"device": "cuda"}],
]
TEXTS = [
    "",
    "null",
    "[]",
    "3",
    '"x"',
    "{",
    "NaN",
    DEEP,
    '{"a":' * 5000,
    '{"model": "\\ud800"}',
    "{" + '"a":1,' * 20_000 + '"b":2}',
]
FAMILIES = ["test_resnet", "van_pico", "transnext_pico", "transxnet_pico", "test_vit"]


def places(value, place=()):
    """Every field of a description, and of what is in it."""
    yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from places(one, (*place, key))


def changed(draw: random.Random) -> tuple[str, str]:
    """The model of a description, and the description, of which one to three fields are set, removed or doubled."""
    description = copy.deepcopy(GOOD)
    name = description["model"] = draw.choice(FAMILIES)
    if draw.random() < 0.03:
        return name, draw.choice(TEXTS)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        place = draw.choice([place for place in places(description) if place])
        parent = description
        for key in place[:-1]:
            parent = parent[key]
        kind = draw.random()
        if kind < 0.7:
            parent[place[-1]] = copy.deepcopy(draw.choice(VALUES))
        elif kind < 0.8:
            parent.pop(place[-1])
        elif isinstance(parent, dict):
            parent[draw.choice(["model_args", "x", "pretrained", "\x1b]0;x\7"])] = copy.deepcopy(draw.choice(VALUES))
        else:
            parent.extend(copy.deepcopy(draw.choices(VALUES, k=3)))
    text = json.dumps(description)
    if draw.random() < 0.05:
        text = text.replace("0.5", draw.choice(["1e999", "NaN", "Infinity", "-0", "0x1"]))
    return name, text


def refused(path) -> str | None:
    """What is said against a checkpoint, None for one that loads; anything but the two types would be a traceback."""
    try:
        load_trained(path)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


def run(*args: str) -> tuple[int, str]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = main(list(args))
    return code, out.getvalue()


@pytest.fixture(scope="module")
def states():
    return {name: timm.create_model(name, num_classes=3).state_dict() for name in FAMILIES}


@pytest.mark.parametrize("tries", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_changed_descriptions(tries, tmp_path, states):
    """In one line what is wrong, in less than 10 s, and nothing outside the file is touched."""
    draw = random.Random(tries)
    path = tmp_path / "model.safetensors"
    loaded = 0
    for _ in range(tries):
        name, text = changed(draw)
        save_file(states[name], path, {METADATA_KEY: text})
        start = time.monotonic()
        with watching(tmp_path) as notes:
            refusal = refused(path)
        loaded += refusal is None
        assert "\n" not in (refusal or ""), text[:500]
        assert len(refusal or "") < 2000, text[:500]
        assert not notes, text[:500]
        assert time.monotonic() - start < 10, text[:500]
    assert 0 < loaded < tries / 2  # some changes are harmless: of metrics, of names


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.new("RGB", (40, 40), "red").save(path)
    return path


COMMANDS = [
    ["predict", "{picture}", "--checkpoint", "{file}", "--engine", "torch"],
    ["eval", "digits", "--checkpoint", "{file}"],
    ["embed", "{picture}", "--checkpoint", "{file}", "--output", "{folder}/out", "--engine", "torch"],
    ["export", "--checkpoint", "{file}", "--to", "torch", "--output", "{folder}/m.pt2", "--dynamic", "none"],
    ["train", "digits", "--checkpoint", "{file}", "--output", "{folder}/run", "--quick"],
]
ATTACKS = {
    "data address": {
        "pretrained": True,
        "pretrained_cfg_overlay": {"url": "data:text/plain,x"},
        "cache_dir": "{folder}/c",
    },
    "web address": {
        "pretrained": True,
        "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth", "hf_hub_id": None},
    },
    "file": {"checkpoint_path": "{folder}/secret.pth"},
    "huge": {"depths": [100, 100, 100, 100], "embed_dim": 16384},
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_arguments_that_would_act(command, attack, tmp_path, picture, states):
    (tmp_path / "secret.pth").write_text("secret")
    text = json.dumps(GOOD | {"model_args": ATTACKS[attack]}).replace("{folder}", str(tmp_path))
    save_file(states["test_resnet"], tmp_path / "model.safetensors", {METADATA_KEY: text})
    values = {"picture": picture, "file": tmp_path / "model.safetensors", "folder": tmp_path}
    with watching() as notes:
        code, said = run(*(part.format(**values) for part in command))
    assert code == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not [note for note in notes if "matplotlib" not in note], notes  # which makes its own folders when imported


@pytest.mark.parametrize(
    "name",
    ["hf-hub:timm/resnet18.a1_in1k", "local-dir:{folder}", "hf_hub:x/y", "../x", "test_resnet.", "no_such_model"],
)
def test_names_that_are_no_architecture(name, tmp_path, picture, states):
    text = json.dumps(GOOD | {"model": name.replace("{folder}", str(tmp_path))})
    save_file(states["test_resnet"], tmp_path / "model.safetensors", {METADATA_KEY: text})
    with watching(tmp_path) as notes:
        code, said = run("predict", str(picture), "--checkpoint", str(tmp_path / "model.safetensors"))
    assert (code, notes) == (2, [])
    assert said.startswith("error: ")


def test_a_small_file_asks_for_no_large_memory(tmp_path, states):
    """A description may name the largest model there is: the tensors beside it are compared first."""
    text = json.dumps(GOOD | {"model": "transnext_base", "model_args": {"dims": [2400, 4800, 9600, 16368]}})
    save_file(states["test_resnet"], tmp_path / "model.safetensors", {METADATA_KEY: text})
    before = torch.get_default_dtype()
    with pytest.raises(ValueError, match=r"does not fit transnext_base: \d+ missing"):
        load_trained(tmp_path / "model.safetensors")
    assert torch.get_default_dtype() == before
