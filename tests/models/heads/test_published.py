"""The table of published heads, and what `pretrained` makes of it."""

import json
from urllib.error import URLError

import pytest
import torch

import glocal
from glocal.cli import main
from glocal.models import create
from glocal.models.heads import HEADS
from glocal.models.heads.published import PUBLISHED
from golden.dense import all_keys

GOLDEN = {"upernet": "upernet", "sfpn": "semantic_fpn", "mask2former": "mask2former"}


def test_each_names_a_head_and_a_backbone():
    assert {one.head for one in PUBLISHED} == set(HEADS)
    assert {one.backbone for one in PUBLISHED} <= set(glocal.model_names())
    keys = [(one.head, one.backbone, one.pretraining) for one in PUBLISHED]
    assert len(set(keys)) == len(keys)


def test_all_published_files_are_listed():
    """The golden keys are of every configuration of the authors; of VAN-B4 with Semantic FPN nobody has a result."""
    configurations = {tuple(key.split("_", 1)) for key in all_keys() if not key.startswith("_")} - {("sfpn", "van_b4")}
    assert {(GOLDEN[head], variant) for head, variant in configurations} == {
        (one.head, one.backbone) for one in PUBLISHED
    }


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """The addresses that are asked for; each gives a file of fresh weights of Semantic FPN."""
    asked = []

    def fetch(address, check_hash, progress):
        asked.append(address)
        model = glocal.create("semantic_fpn", "transxnet_t")
        torch.nn.init.constant_(model.head.classifier.bias, 7)
        torch.save(model.state_dict(), tmp_path / "file.pth")
        return str(tmp_path / "file.pth")

    monkeypatch.setattr(create, "download_cached_file", fetch)
    return asked


def test_pretrained_loads_the_authors_file(downloads):
    model = glocal.create("semantic_fpn", "transxnet_t", pretrained=True)
    assert torch.equal(model.head.classifier.bias, torch.full((150,), 7.0))
    assert downloads[0][0] == "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/sfpn_transxnet_tiny.pth"


def test_pretraining_chooses_the_file(monkeypatch):
    asked = []

    def fetch(address, **_):
        asked.append(address)
        raise URLError("no network")

    monkeypatch.setattr(create, "download_cached_file", fetch)
    for pretrained in (True, "in22k"):
        with pytest.raises(RuntimeError, match=r"were not downloaded \(.*no network.*\): try again, or get the file"):
            glocal.create("upernet", "van_b4", pretrained=pretrained)
    assert [address[0].split("/")[4] for address in asked] == ["5273f92c77a94395b804", "8f1f0a9c4c71478fa43b"]
    assert asked[0][1] == "upernet_van_b4_in1k_ade20k.pth"


def test_transnext_is_built_as_in_the_authors_tests():
    (entry,) = (one for one in PUBLISHED if (one.head, one.backbone) == ("upernet", "transnext_tiny"))
    assert dict(entry.backbone_args) == {"bias_mode": "interpolate", "img_size": 512}


@pytest.mark.parametrize(
    ("head", "backbone", "pretrained", "message"),
    [
        ("upernet", "van_b0", True, "no weights of upernet on van_b0 have been published"),
        ("semantic_fpn", "van_b0", True, "cannot be downloaded by a program: get the file from https://drive.google"),
        ("upernet", "hat_net_tiny", True, "no upernet on hat_net_tiny has been published"),
        ("upernet", "van_b2", "in22k", "no upernet on van_b2 with the pre-training 'in22k' has been published"),
    ],
)
def test_what_cannot_be_downloaded(head, backbone, pretrained, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        glocal.create(head, backbone, pretrained=pretrained)


def test_pretrained_and_a_file_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        glocal.create("upernet", "van_b2", pretrained=True, checkpoint=tmp_path / "a.pth")


def test_list(tmp_path, capsys):
    assert main(["list", "--task", "segmentation", "--json", str(tmp_path / "list.json")]) == 0
    text = capsys.readouterr().out
    assert "mask2former" in text
    entries = json.loads((tmp_path / "list.json").read_text())
    assert len(entries) == len(PUBLISHED)
    assert entries[0]["miou"] == 51.1
    assert entries[0]["url"].startswith("https://huggingface.co/DaiShiResearch/upernet-transnext-tiny-ade/")


def test_list_by_pattern(capsys):
    assert main(["list", "van_b4", "--task", "segmentation"]) == 0
    text = capsys.readouterr().out
    assert "in22k" in text
    assert "transnext" not in text


def test_list_of_nothing(capsys):
    assert main(["list", "nothing*", "--task", "segmentation"]) == 2
    assert "no head and no backbone matches 'nothing*'" in capsys.readouterr().err
