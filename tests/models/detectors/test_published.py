"""The table of published detectors, and what `pretrained` makes of it."""

import json

import pytest
import torch

import glocal
from glocal.cli import main
from glocal.models import create
from glocal.models.create import find_published
from glocal.models.detectors import DETECTORS
from glocal.models.detectors.published import PUBLISHED


def test_each_is_listed_once_on_a_backbone_of_ours():
    assert {one.backbone for one in PUBLISHED} <= set(glocal.model_names())
    keys = [(one.head, one.backbone, one.epochs, *one.head_args.items()) for one in PUBLISHED]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: f"{one.head}-{one.backbone}")
def test_its_head_takes_its_arguments(one):
    assert one.head not in DETECTORS or one.head_args.keys() <= DETECTORS[one.head].head_args.keys()


def test_where_files_are():
    assert sum(one.weights == "download" for one in PUBLISHED) == 13
    (one,) = (one for one in PUBLISHED if (one.head, one.backbone) == ("mask_rcnn", "transnext_small"))
    assert one.url == (
        "https://huggingface.co/DaiShiResearch/maskrcnn-transnext-small-coco/resolve/main/"
        "mask_rcnn_transnext_small_fpn_1x_coco_in1k.pth"
    )
    assert (one.box_ap, one.mask_ap) == (51.1, 45.5)
    assert dict(one.backbone_args) == {"bias_mode": "interpolate", "img_size": 800}
    assert {one.weights for one in PUBLISHED if one.backbone.startswith("van_")} == {"none"}


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """The addresses that are asked for; each gives a file of fresh weights."""
    asked = []

    def fetch(address, check_hash, progress):
        asked.append(address)
        model = glocal.create("retinanet", "transxnet_t")
        torch.nn.init.constant_(model.head.regressor.bias, 7)
        torch.save(model.state_dict(), tmp_path / "file.pth")
        return str(tmp_path / "file.pth")

    monkeypatch.setattr(create, "download_cached_file", fetch)
    return asked


def test_pretrained_loads_the_authors_file(downloads):
    model = glocal.create("retinanet", "transxnet_t", pretrained=True)
    assert torch.equal(model.head.regressor.bias, torch.full((36,), 7.0))
    address = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/retinanet_tiny.pth"
    assert downloads == [(address, "retinanet_tiny.pth")]


@pytest.mark.parametrize(
    ("backbone", "head_args", "file"),
    [
        ("transnext_tiny", {}, "dino_4scale_transnext_tiny_12e_in1k.pth"),
        ("transnext_tiny", {"scales": 5}, "dino_5scale_transnext_tiny_12e_in1k.pth"),
        ("transnext_base", {}, "dino_5scale_transnext_base_12e_in1k.pth"),
    ],
)
def test_arguments_of_the_head_choose_the_file(backbone, head_args, file, monkeypatch):
    monkeypatch.setitem(create.DETECTORS, "dino", create.DETECTORS.get("dino"))
    assert find_published("dino", backbone, head_args=head_args).url.endswith(f"/{file}")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("van_b0", "no weights of retinanet on van_b0 have been published"),
        ("hat_net_tiny", "no retinanet on hat_net_tiny has been published: `glocal list --task detection` lists"),
    ],
)
def test_what_cannot_be_downloaded(backbone, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        glocal.create("retinanet", backbone, pretrained=True)


def test_list(tmp_path, capsys):
    assert main(["list", "--task", "detection", "--json", str(tmp_path / "list.json")]) == 0
    text = capsys.readouterr().out
    assert "scales=5" in text
    assert "43.1" in text
    entries = json.loads((tmp_path / "list.json").read_text())
    assert len(entries) == len(PUBLISHED)
    assert entries[0]["box_ap"] == 43.1
    assert entries[0]["url"].endswith("/retinanet_tiny.pth")


def test_list_by_pattern(capsys):
    assert main(["list", "mask_rcnn", "--task", "detection"]) == 0
    text = capsys.readouterr().out
    assert "transnext_base" in text
    assert "dino" not in text
