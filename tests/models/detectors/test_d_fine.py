"""D-FINE on our maps gives what transformers' own model gives for the same maps, and trains."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import glocal
from glocal.models.create import load_for_training
from glocal.models.detectors.d_fine import library
from glocal.models.detectors.d_fine.head import DFineHead, aligned
from glocal.models.detectors.d_fine.selection import Selection

transformers = pytest.importorskip("transformers")
from transformers.models.d_fine import modeling_d_fine  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = [name for name in glocal.model_names() if name.endswith("_pico")] + ["test_convnext", "test_mambaout"]
DIMS = (6, 8, 10, 12)
TARGETS = [
    {"boxes": torch.tensor([[10.0, 10.0, 60.0, 50.0], [0.0, 20.0, 30.0, 90.0]]), "labels": torch.tensor([3, 0])},
    {"boxes": torch.tensor([[40.0, 5.0, 100.0, 70.0]]), "labels": torch.tensor([1])},
]
NOTHING = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
SIZE = torch.tensor([[96, 128]])
SMALL = dict(size="s", width=16, depth=2, num_queries=20, num_denoising=12)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """The largest size has another width in its encoder; its own tensors would take seconds."""
    small = replace(library.SIZES["x"], width=24, decoder_width=16, hidden=32, decoder_hidden=32)
    monkeypatch.setitem(library.SIZES, "x", small)


def maps_of(height=96, width=128, batch=2, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    return [
        torch.randn(batch, dim, *size, generator=draw, dtype=torch.float64).to(dtype)
        for dim, size in zip(DIMS, sizes, strict=True)
    ]


def built(dims=DIMS, num_classes=4, **args):
    torch.manual_seed(0)
    head = DFineHead(dims, num_classes, **{**SMALL, **args})
    for parameter in head.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:  # as it starts, the head moves no box
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return head


class GivenMaps(nn.Module):
    """In the place of transformers' backbone."""

    def __init__(self, dims):
        super().__init__()
        self.channels, self.maps = dims, None

    def forward(self, images):
        return SimpleNamespace(feature_maps=self.maps)


def of_transformers(head, monkeypatch):
    """transformers' own model with the parameters of a head, as a function of maps and its arguments."""
    stub = GivenMaps(DIMS[head.first_map :])
    monkeypatch.setattr(modeling_d_fine, "load_backbone", lambda config: stub)
    model = modeling_d_fine.DFineForObjectDetection(head.config).to(next(head.parameters()).dtype)
    model.load_state_dict(official(head), strict=True)

    def run(maps, labels=None):
        stub.maps = maps[head.first_map :]
        images = torch.zeros(len(maps[0]), 3, 8, 8, dtype=maps[0].dtype)
        return model.train(head.training)(pixel_values=images, labels=labels)

    return model, run


def official(head):
    """The parameters of a head by transformers' names, both of those that are shared."""
    found = {}
    names = {
        "inputs.": "encoder_input_proj.",
        "projections.": "decoder_input_proj.",
        "label_embed.": "denoising_class_embed.",
        "selection.proj.": "enc_output.0.",
        "selection.norm.": "enc_output.1.",
        "selection.classifier.": "enc_score_head.",
        "selection.regressor.": "enc_bbox_head.",
    }
    for name, tensor in head.state_dict().items():
        for ours, theirs in names.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
        found[f"model.{name}"] = tensor
        if name.startswith(("decoder.class_embed.", "decoder.bbox_embed.")):
            found[name.removeprefix("decoder.")] = tensor
    return found


def as_labels(targets, size=(96, 128)):
    height, width = size
    scale = torch.tensor([width, height, width, height])
    boxes = [target["boxes"] / scale for target in targets]
    boxes = [torch.cat(((x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]), 1) for x in boxes]
    return [{"class_labels": t["labels"], "boxes": x} for t, x in zip(targets, boxes, strict=True)]


class TestTransformers:
    @pytest.mark.parametrize(("size", "batch"), [("n", 2), ("s", 1), ("x", 2)])
    def test_boxes_are_the_same(self, size, batch, monkeypatch):
        head = built(size=size, width=None if size == "x" else 16).double().eval()
        maps = maps_of(batch=batch, dtype=torch.float64)
        with torch.no_grad():
            expected = of_transformers(head, monkeypatch)[1](maps)
            found = head(maps, SIZE.expand(batch, 2))
            decoded = head.outputs(maps).decoded
        torch.testing.assert_close(decoded.intermediate_logits[:, -1], expected.logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(decoded.intermediate_reference_points[:, -1], expected.pred_boxes, rtol=0, atol=1e-6)
        processor = transformers.RTDetrImageProcessor()
        ends = processor.post_process_object_detection(expected, 0.0, target_sizes=SIZE.expand(batch, 2))
        limits = torch.tensor([128.0, 96, 128, 96], dtype=torch.float64)
        for ours, theirs in zip(found, ends, strict=True):
            assert ours["boxes"].shape == (20, 4)
            torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-6)
            assert torch.equal(ours["labels"], theirs["labels"])
            clipped = theirs["boxes"].clamp(min=0).minimum(limits)
            torch.testing.assert_close(ours["boxes"], clipped, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(
        ("args", "targets"),
        [
            ({}, TARGETS),
            ({"size": "n", "num_denoising": 3}, [TARGETS[1], NOTHING]),
            ({"size": "x", "width": None, "num_denoising": 0}, TARGETS),
        ],
        ids=["s", "n", "x-no-denoising"],
    )
    def test_losses_and_gradients_are_the_same(self, args, targets, monkeypatch):
        head = built(**args).train()
        model, run = of_transformers(head, monkeypatch)
        ours, theirs = ([x.requires_grad_() for x in maps_of()] for _ in range(2))
        torch.manual_seed(1)
        expected = run(theirs, as_labels(targets)).loss_dict
        torch.manual_seed(1)
        found = head(ours, SIZE.expand(2, 2), targets)
        assert found.keys() == expected.keys()
        for name, loss in expected.items():
            torch.testing.assert_close(
                found[name], loss, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
        sum(found.values()).backward()
        sum(expected.values()).backward()
        for one, other in zip(ours[head.first_map :], theirs[head.first_map :], strict=True):
            assert one.grad.abs().max() > 0
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
        weight = model.model.decoder.layers[0].encoder_attn.sampling_offsets.weight.grad
        torch.testing.assert_close(
            head.decoder.layers[0].encoder_attn.sampling_offsets.weight.grad, weight, rtol=1e-3, atol=1e-5
        )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return glocal.create("d_fine", "van_pico", 4, head_args=SMALL)


class TestFiles:
    @pytest.mark.parametrize("left_out", ["", "model.decoder.class_embed.", "bbox_embed."])
    def test_those_of_transformers_load(self, left_out, model, tmp_path, caplog):
        """transformers shares some parameters of two names: files of its versions have both or either."""
        weights = {key: tensor for key, tensor in official(model.head).items() if not left_out or left_out not in key}
        if left_out == "bbox_embed.":
            weights |= {key: tensor for key, tensor in official(model.head).items() if key.startswith(left_out)}
        torch.save(weights, tmp_path / "pytorch_model.bin")
        loaded = glocal.create("d_fine", "van_pico", 4, tmp_path / "pytorch_model.bin", head_args=SMALL)
        assert "the weights of the head alone" in caplog.text
        again = loaded.head.state_dict()
        assert all(torch.equal(tensor, again[key]) for key, tensor in model.head.state_dict().items())

    def test_one_that_does_not_fit_is_refused(self, model, tmp_path):
        weights = official(model.head)
        del weights["model.enc_output.0.weight"]
        torch.save(weights, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=r"not a checkpoint of this head: 1 missing: head.selection.proj.weight"):
            glocal.create("d_fine", "van_pico", 4, tmp_path / "model.pt", head_args=SMALL)

    def test_a_training_starts_from_a_whole_one_for_other_classes(self, model, tmp_path, caplog):
        """With its own backbone and classes, as the published files are."""
        weights = {**official(model.head), "model.backbone.model.embedder.stem1.convolution.weight": torch.ones(3)}
        weights["model.encoder_input_proj.0.0.weight"] = torch.ones(16, 512, 1, 1)
        torch.save(weights, tmp_path / "model.pt")
        fresh = glocal.create("d_fine", "van_pico", 7, head_args=SMALL)
        load_for_training(fresh, "d_fine", "van_pico", tmp_path / "model.pt")
        assert "layers of the head that start anew: 5 of" in caplog.text
        assert torch.equal(
            fresh.head.encoder.state_dict()["lateral_convs.0.conv.weight"],
            weights["model.encoder.lateral_convs.0.conv.weight"],
        )


class TestSizes:
    @pytest.mark.parametrize(
        ("sides", "expected"),
        [((12, 6, 3), (12, 6, 3)), ((9, 5, 3), (12, 6, 3)), ((11, 5, 2), (8, 4, 2)), ((1, 1, 1), (4, 2, 1))],
        ids=str,
    )
    def test_maps_become_twice_as_large_as_the_next(self, sides, expected):
        maps = [torch.ones(1, 2, side, side + 1) for side in sides]
        for x, given, side in zip(aligned(maps), maps, expected, strict=True):
            assert x.shape[2] == side
            assert x[:, :, : given.shape[2], : given.shape[3]].eq(1).all()
            assert x.sum() == 2 * min(side, given.shape[2]) * min(x.shape[3], given.shape[3])

    @pytest.mark.parametrize("size", [(1, 1), (33, 31), (65, 47), (96, 160)], ids=str)
    def test_images_of_any_size(self, size, model):
        with torch.no_grad():
            (found,) = model.eval()(torch.randn(1, 3, *size))
        assert found["boxes"].shape == (20, 4)
        assert found["boxes"].isfinite().all()
        assert (found["scores"].diff() <= 0).all()

    def test_a_pixel_is_a_pixel_in_images_of_odd_sides(self, monkeypatch):
        """Boxes are relative to what the maps show, not to the image."""
        head = built().eval()
        monkeypatch.setattr(DFineHead, "outputs", lambda self, maps: SimpleNamespace(decoded=at_the_middle()))
        (found,) = head(maps_of(70, 100, batch=1), torch.tensor([[70, 100]]))
        torch.testing.assert_close(found["boxes"][0], torch.tensor([48.0, 36.0, 80.0, 60.0]))

    def test_positions_that_fill_up_come_last(self):
        selection = Selection(8, 3, 12, nn.Linear(8, 4))
        nn.init.constant_(selection.norm.bias, 1.0)
        nn.init.constant_(selection.classifier.bias, -20.0)
        memory = torch.randn(2, 10, 8)
        few, many = (selection(memory[:, :count], [(2, 4), (1, count - 8)]) for count in (9, 10))
        for found, count in ((few, 9), (many, 10)):
            filled = found.box_logits.sigmoid().eq(1).all(-1)
            inside = (~filled).sum(1)
            assert inside.eq(count).all()
            assert not filled[:, :count].any()

    def test_padding_counts_as_image_and_results_are_clipped(self, model):
        images, sizes = torch.randn(2, 3, 64, 96), torch.tensor([[64, 96], [40, 50]])
        with torch.no_grad():
            (whole, padded), alone = model.eval()(images, sizes), model(images)
        assert torch.equal(whole["boxes"], alone[0]["boxes"])
        limits = torch.tensor([50.0, 40, 50, 40])
        assert torch.equal(padded["boxes"], alone[1]["boxes"].minimum(limits))

    def test_losses_are_relative_to_the_image_without_padding(self):
        """So that the distance of a box counts as much in a batch with larger images."""
        head = built(num_queries=1, num_denoising=0, depth=1).train()
        targets = [{"boxes": torch.tensor([[20.0, 20.0, 60.0, 50.0]]), "labels": torch.tensor([1])}]
        maps = maps_of(batch=1)
        found = head(maps, torch.tensor([[48, 128]]), targets)
        own = head.outputs(maps).decoded.intermediate_reference_points[0, -1, 0] * torch.tensor([1.0, 2, 1, 2])
        wanted = torch.tensor([40 / 128, 35 / 48, 40 / 128, 30 / 48])
        distance = (own.clamp(0, 1) - wanted).abs().sum()
        torch.testing.assert_close(found["loss_bbox"], 5 * distance)

    def test_denoising_queries_are_relative_to_what_the_maps_show(self, monkeypatch):
        head, given = built().train(), []
        monkeypatch.setattr(head, "noisy", lambda targets: given.extend(targets))
        head(maps_of(batch=1), torch.tensor([[48, 64]]), [TARGETS[0]])
        torch.testing.assert_close(given[0]["boxes"], as_labels(TARGETS[:1])[0]["boxes"])


def at_the_middle():
    """What a decoder says whose boxes are at half of the maps."""
    boxes = torch.tensor([0.5, 0.5, 0.25, 0.25]).expand(1, 1, 20, 4)
    return SimpleNamespace(intermediate_logits=torch.zeros(1, 1, 20, 4), intermediate_reference_points=boxes)


class TestTraining:
    @pytest.mark.parametrize("num_denoising", [0, 12])
    def test_without_objects_the_same_losses_reach_every_parameter(self, num_denoising):
        """Processes of a distributed training wait for each other's gradients and losses."""
        head = built(num_denoising=num_denoising).train()
        maps = [x.requires_grad_() for x in maps_of()]
        found = head(maps, SIZE.expand(2, 2), [NOTHING, NOTHING])
        assert found.keys() == head(maps_of(), SIZE.expand(2, 2), [TARGETS[0], NOTHING]).keys()
        sum(found.values()).backward()
        lacking = [name for name, x in head.named_parameters() if x.requires_grad and x.grad is None]
        assert lacking == []
        assert all(x.grad.isfinite().all() for x in maps[1:])

    def test_gradients_reach_the_backbone(self, model):
        model.train().zero_grad()
        losses = model(torch.randn(2, 3, 64, 64), None, [TARGETS[0], NOTHING])
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_mixed_precision(self, dtype, model):
        """Boxes and losses stay in single precision."""
        with torch.autocast("cpu", dtype):
            losses = model.train()(torch.randn(2, 3, 64, 64), None, TARGETS)
            with torch.no_grad():
                found = model.eval()(torch.randn(2, 3, 64, 64))[0]
        assert {loss.dtype for loss in losses.values()} == {found["boxes"].dtype} == {torch.float32}
        assert all(loss.isfinite() for loss in losses.values())

    def test_double_precision(self):
        """The network's; transformers' losses know single precision only."""
        maps, sizes = maps_of(), SIZE.expand(2, 2)
        found = []
        for head in (built().train(), built().double().train()):
            torch.manual_seed(1)
            found.append(head([x.to(head.selection.proj.weight) for x in maps], sizes, TARGETS))
        for name, loss in found[0].items():
            torch.testing.assert_close(loss.double(), found[1][name].double(), rtol=1e-4, atol=1e-5)

    def test_boxes_that_are_no_numbers_are_no_error_of_transformers(self):
        """The trainer stops at a loss that is not finite, and says so."""
        head = built(depth=1).train()
        nn.init.constant_(head.decoder.pre_bbox_head.layers[-1].bias, torch.nan)
        losses = head(maps_of(), SIZE.expand(2, 2), TARGETS)
        assert losses["loss_bbox"].isfinite()
        assert losses["loss_vfl"].isnan()

    def test_classes_have_no_weights(self):
        with pytest.raises(ValueError, match=r"the losses of d_fine .* have no weights of classes"):
            built().train()(maps_of(), SIZE.expand(2, 2), TARGETS, torch.ones(4))

    @pytest.mark.slow
    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_every_backbone(self, backbone):
        torch.manual_seed(0)
        model = glocal.create("d_fine", backbone, 4, head_args=SMALL)
        with torch.no_grad():
            found = model.eval()(torch.randn(2, 3, 97, 130), [[97, 130], [70, 101]])
        assert [len(one["boxes"]) for one in found] == [20, 20]
        losses = model.train()(torch.randn(2, 3, 97, 130), None, TARGETS)
        sum(losses.values()).backward()
        trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert not [name for name, grad in trained.items() if grad is None or not grad.isfinite().all()]

    @pytest.mark.slow
    def test_boxes_come_near_their_objects(self):
        torch.manual_seed(0)
        model = glocal.create("d_fine", "van_pico", 4, head_args={**SMALL, "width": 32}).train()
        images = torch.rand(2, 3, 96, 128)
        for image, target in zip(images, TARGETS, strict=True):
            for box, label in zip(target["boxes"].int().tolist(), target["labels"].tolist(), strict=True):
                image[:, box[1] : box[3], box[0] : box[2]] = (
                    torch.tensor([label == 0, label == 1, label == 3]).float().view(3, 1, 1)
                )
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
        totals = []
        for _ in range(60):
            optimizer.zero_grad()
            losses = model(images, None, TARGETS)
            sum(losses.values()).backward()
            optimizer.step()
            totals.append(float(losses["loss_bbox"].detach() + losses["loss_giou"].detach()))
        assert min(totals[-5:]) < totals[0] / 3


class TestArguments:
    @pytest.mark.parametrize(
        ("args", "error"),
        [
            ({"size": "xl"}, "Invalid enum value 'xl'"),
            ({"width": 20}, "width must be a multiple of 8, not 20"),
            ({"depth": 0}, "Expected `int` >= 1"),
            ({"num_queries": 0}, "Expected `int` >= 1"),
            ({"num_denoising": -1}, "Expected `int` >= 0"),
        ],
    )
    def test_mistakes(self, args, error):
        with pytest.raises(ValueError, match=error):
            glocal.create("d_fine", "van_pico", 4, head_args=args)

    @pytest.mark.parametrize(
        ("size", "backbone", "millions"),
        [
            ("n", "hgnetv2_b0", 4),
            ("s", "hgnetv2_b0", 10),
            pytest.param("m", "hgnetv2_b2", 19, marks=pytest.mark.slow),
            pytest.param("l", "hgnetv2_b4", 31, marks=pytest.mark.slow),
        ],
    )
    def test_parameters_as_published(self, size, backbone, millions):
        with torch.device("meta"):
            model = glocal.create("d_fine", backbone, 80, head_args={"size": size})
        assert sum(x.numel() for x in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.6)

    @pytest.mark.parametrize("name", ["transformers", "scipy"])
    def test_a_missing_library_is_a_line(self, name, monkeypatch):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"the head d_fine needs {name}: pip install 'glocal\[dfine\]'"):
            built()

    def test_nothing_is_asked_for_from_a_network(self, monkeypatch):
        def refuse(*args):
            raise AssertionError("a connection")

        monkeypatch.setattr("socket.socket.connect", refuse)
        monkeypatch.setattr("socket.getaddrinfo", refuse)
        assert built()
