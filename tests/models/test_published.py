"""The tables of published heads and detectors, and what `pretrained` makes of them."""

import json
from urllib.error import URLError

import pytest
import torch

import glocal
from glocal.cli import main
from glocal.models import create
from glocal.models.create import ALL_HEADS, find_published
from glocal.models.detectors.published import PUBLISHED as DETECTORS
from glocal.models.heads import HEADS
from glocal.models.heads.published import PUBLISHED as DENSE
from golden.dense import all_keys

GOLDEN = {"upernet": "upernet", "sfpn": "semantic_fpn", "mask2former": "mask2former"}
RELEASES = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0"

tables = pytest.mark.parametrize("table", [DENSE, DETECTORS], ids=["segmentation", "detection"])


class TestTables:
    @tables
    def test_each_is_listed_once_on_a_backbone_of_ours(self, table):
        assert {one.backbone for one in table} <= set(glocal.model_names())
        keys = [
            (one.head, one.backbone, one.pretraining, getattr(one, "epochs", None), *one.head_args.items())
            for one in table
        ]
        assert len(set(keys)) == len(keys)

    @pytest.mark.parametrize("one", [*DENSE, *DETECTORS], ids=lambda one: f"{one.head}-{one.backbone}")
    def test_its_head_takes_its_arguments(self, one):
        assert one.head_args.keys() <= ALL_HEADS[one.head].head_args.keys()

    def test_all_published_files_of_segmentation_are_listed(self):
        """The golden keys are of all configurations of the authors; of VAN-B4 with Semantic FPN there is no result."""
        golden = {tuple(key.split("_", 1)) for key in all_keys() if not key.startswith("_")} - {("sfpn", "van_b4")}
        assert {(GOLDEN[head], variant) for head, variant in golden} == {(one.head, one.backbone) for one in DENSE}
        assert {one.head for one in DENSE} == set(HEADS)

    def test_where_files_of_detectors_are(self):
        assert sum(one.weights == "download" for one in DETECTORS) == 13
        (one,) = (one for one in DETECTORS if (one.head, one.backbone) == ("mask_rcnn", "transnext_small"))
        assert one.url == (
            "https://huggingface.co/DaiShiResearch/maskrcnn-transnext-small-coco/resolve/main/"
            "mask_rcnn_transnext_small_fpn_1x_coco_in1k.pth"
        )
        assert (one.box_ap, one.mask_ap) == (51.1, 45.5)
        assert {one.weights for one in DETECTORS if one.backbone.startswith("van_")} == {"none"}

    @pytest.mark.parametrize(
        ("table", "head", "size"), [(DENSE, "upernet", 512), (DETECTORS, "mask_rcnn", 800)], ids=["dense", "detector"]
    )
    def test_transnext_is_built_as_in_the_authors_tests(self, table, head, size):
        (one,) = (one for one in table if (one.head, one.backbone) == (head, "transnext_tiny"))
        assert dict(one.backbone_args) == {"bias_mode": "interpolate", "img_size": size}


class TestPretrained:
    @pytest.mark.parametrize(
        ("head", "last", "file"),
        [
            ("semantic_fpn", "classifier", "sfpn_transxnet_tiny.pth"),
            ("retinanet", "regressor", "retinanet_tiny.pth"),
        ],
    )
    def test_loads_the_authors_file(self, head, last, file, monkeypatch, tmp_path):
        asked = []

        def fetch(address, check_hash, progress):
            asked.append(address)
            model = glocal.create(head, "transxnet_t")
            torch.nn.init.constant_(getattr(model.head, last).bias, 7)
            torch.save(model.state_dict(), tmp_path / "file.pth")
            return str(tmp_path / "file.pth")

        monkeypatch.setattr(create, "download_cached_file", fetch)
        bias = getattr(glocal.create(head, "transxnet_t", pretrained=True).head, last).bias
        assert torch.equal(bias, torch.full_like(bias, 7))
        assert asked == [(f"{RELEASES}/{file}", file)]

    def test_pretraining_chooses_the_file(self, monkeypatch):
        asked = []

        def fetch(address, **_):
            asked.append(address)
            raise URLError("no network")

        monkeypatch.setattr(create, "download_cached_file", fetch)
        for pretrained in (True, "in22k"):
            with pytest.raises(
                RuntimeError, match=r"were not downloaded \(.*no network.*\): try again, or get the file"
            ):
                glocal.create("upernet", "van_b4", pretrained=pretrained)
        assert [address[0].split("/")[4] for address in asked] == ["5273f92c77a94395b804", "8f1f0a9c4c71478fa43b"]
        assert asked[0][1] == "upernet_van_b4_in1k_ade20k.pth"

    @pytest.mark.parametrize(
        ("backbone", "head_args", "file"),
        [
            ("transnext_tiny", {}, "dino_4scale_transnext_tiny_12e_in1k.pth"),
            ("transnext_tiny", {"scales": 5}, "dino_5scale_transnext_tiny_12e_in1k.pth"),
            ("transnext_base", {}, "dino_5scale_transnext_base_12e_in1k.pth"),
        ],
    )
    def test_arguments_of_the_head_choose_the_file(self, backbone, head_args, file):
        assert find_published("dino", backbone, head_args=head_args).url.endswith(f"/{file}")

    @pytest.mark.parametrize(
        ("head", "backbone", "pretrained", "message"),
        [
            ("upernet", "van_b0", True, "no weights of upernet on van_b0 have been published"),
            ("retinanet", "van_b0", True, "no weights of retinanet on van_b0 have been published"),
            ("semantic_fpn", "van_b0", True, "cannot be downloaded by a program: get the file from https://drive.goog"),
            ("upernet", "hat_net_tiny", True, "no upernet on hat_net_tiny has been published"),
            (
                "retinanet",
                "hat_net_tiny",
                True,
                "no retinanet on hat_net_tiny has been published: `glocal list --task detection` lists",
            ),
            ("upernet", "van_b2", "in22k", "no upernet on van_b2 with the pre-training 'in22k' has been published"),
        ],
    )
    def test_what_cannot_be_downloaded(self, head, backbone, pretrained, message):
        with pytest.raises((RuntimeError, ValueError), match=message):
            glocal.create(head, backbone, pretrained=pretrained)

    def test_a_file_excludes_it(self, tmp_path):
        with pytest.raises(ValueError, match="exclude each other"):
            glocal.create("upernet", "van_b2", pretrained=True, checkpoint=tmp_path / "a.pth")


class TestList:
    @pytest.mark.parametrize(
        ("task", "table", "measure", "value", "address", "shown"),
        [
            (
                "segmentation",
                DENSE,
                "miou",
                51.1,
                "https://huggingface.co/DaiShiResearch/upernet-transnext-tiny-ade/",
                "mask2former",
            ),
            ("detection", DETECTORS, "box_ap", 43.1, f"{RELEASES}/retinanet_tiny.pth", "scales=5"),
        ],
        ids=["segmentation", "detection"],
    )
    def test_all(self, task, table, measure, value, address, shown, tmp_path, capsys):
        assert main(["list", "--task", task, "--json", str(tmp_path / "list.json")]) == 0
        text = capsys.readouterr().out
        assert shown in text
        assert str(value) in text
        entries = json.loads((tmp_path / "list.json").read_text())
        assert len(entries) == len(table)
        assert entries[0][measure] == value
        assert entries[0]["url"].startswith(address)

    @pytest.mark.parametrize(
        ("task", "pattern", "there", "other"),
        [("segmentation", "van_b4", "in22k", "transnext"), ("detection", "mask_rcnn", "transnext_base", "dino")],
    )
    def test_by_pattern(self, task, pattern, there, other, capsys):
        assert main(["list", pattern, "--task", task]) == 0
        text = capsys.readouterr().out
        assert there in text
        assert other not in text

    @pytest.mark.parametrize("task", ["segmentation", "detection"])
    def test_nothing(self, task, capsys):
        assert main(["list", "nothing*", "--task", task]) == 2
        assert "no head and no backbone matches 'nothing*'" in capsys.readouterr().err
