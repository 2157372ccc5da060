import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from glocal import files
from glocal.tasks.checkpoint import CheckpointInfo, find_checkpoint, read_info, read_weights, save_checkpoint

INFO = CheckpointInfo(
    model="test_resnet",
    class_names=["cat", "dög", "a/b"],
    preprocessing={
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "crop_mode": "center",
    },
    metrics={"top1": 98.7, "epoch": 3},
    data={"name": "pets", "held_out": {"val_fraction": 0.2, "seed": 1, "files": "ab"}},
)
WEIGHTS = {"a": torch.arange(6.0).view(2, 3).t(), "b": torch.tensor(3), "c": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", WEIGHTS, INFO)
    return tmp_path / "model.safetensors"


def test_round_trip(saved):
    assert read_info(saved) == INFO
    weights = read_weights(saved)
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


def test_versions_are_kept(saved):
    assert read_info(saved).versions.keys() == {"glocal", "timm", "torch"}


def test_metadata_is_plain_json(saved):
    with safe_open(saved, framework="pt") as file:
        assert json.loads(file.metadata()["glocal"])["class_names"] == ["cat", "dög", "a/b"]


def test_views_of_one_tensor_are_kept_apart(tmp_path):
    base = torch.arange(4.0)
    save_checkpoint(tmp_path / "m.safetensors", {"x": base, "y": base[2:]}, INFO)
    assert read_weights(tmp_path / "m.safetensors")["y"].tolist() == [2, 3]


def test_same_content_gives_the_same_bytes(saved, tmp_path):
    save_checkpoint(tmp_path / "again.safetensors", read_weights(saved), read_info(saved))
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_no_other(saved, monkeypatch, failing):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(OSError, match=rf"No space left on device: '{saved}'"):
        save_checkpoint(saved, {"a": torch.zeros(1)}, INFO)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


class TestFinding:
    def test_run_folder_and_file(self, saved):
        assert find_checkpoint(saved.parent) == saved
        assert find_checkpoint(str(saved)) == saved

    @pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
    def test_an_exported_file_is_named_as_one(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"content")
        with pytest.raises(ValueError, match=rf"{name} is an exported file: give the run"):
            find_checkpoint(tmp_path / name)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nope"):
            find_checkpoint(tmp_path / "nope.pth")

    def test_folder_without_a_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
            find_checkpoint(tmp_path)

    def test_empty_file(self, tmp_path):
        (tmp_path / "a.pth").touch()
        with pytest.raises(ValueError, match="is empty"):
            find_checkpoint(tmp_path / "a.pth")


class TestForeignFiles:
    def test_other_formats_say_nothing(self, tmp_path):
        torch.save(WEIGHTS, tmp_path / "a.pth")
        save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
        assert read_info(tmp_path / "a.pth") is None
        assert read_info(tmp_path / "a.safetensors") is None

    def test_half_a_file(self, saved):
        saved.write_bytes(saved.read_bytes()[:-5])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_info(saved)

    @pytest.mark.parametrize("description", ["{", '{"model": "x", "colour": 3}', "{}"])
    def test_description_of_another_version(self, tmp_path, description):
        save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"glocal": description})
        with pytest.raises(ValueError, match="not one that this version of glocal reads"):
            read_info(tmp_path / "a.safetensors")
