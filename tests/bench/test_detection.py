"""Detectors timed: what is counted, what untrained heads find, where the time goes, and what is trained."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glocal.bench import detection, headed, parts, steps, targets
from glocal.bench.config import DEFAULTS, BenchConfig
from glocal.bench.parts import Parts
from glocal.bench.steps import Entry
from glocal.deploy.files import coarse_images
from glocal.models.detectors import DETECTORS, rcnn, retinanet, rpn
from glocal.tasks import find_task
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.detection.agreement import difference
from glocal.tasks.detection.objective import DetectionObjective
from glocal.tasks.detection.outputs import Detections
from glocal.training.config import train_config

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
NAME, SIZE = "test_mambaout", (96, 128)
ARGS = {
    "retinanet": {"width": 16, "depth": 1},
    "faster_rcnn": {"width": 16, "hidden": 32},
    "mask_rcnn": {"width": 16, "hidden": 32},
    "cascade_mask_rcnn": {"width": 16, "hidden": 32},
    "dino": {"width": 64, "depth": 1, "num_queries": 50},
    "d_fine": {"size": "s", "width": 16, "depth": 1, "num_queries": 200},
}
FOUND = dict.fromkeys(ARGS, 100) | {"dino": 300, "d_fine": 200}
SLOW = ("faster_rcnn", "cascade_mask_rcnn")
HEADS = [pytest.param(head, marks=pytest.mark.slow if head in SLOW else ()) for head in ARGS]


def built(head, size=SIZE):
    torch.manual_seed(0)
    return headed.with_head(NAME, head, size, ARGS[head]).eval()


def config(head, **options):
    return BenchConfig([NAME], NAME, task="detection", head=head, head_args=ARGS[head], device="cpu", **options)


def images(count=1):
    return next(iter(coarse_images([(count, 3, *SIZE)])))


def test_every_detector_can_be_timed():
    assert set(DEFAULTS["detection"].heads) == set(DETECTORS) == set(ARGS)
    assert {headed.task_of(head).name for head in DEFAULTS["instances"].heads} == {"instances"}
    assert headed.task_of("dino").name == "detection"


class TestObjects:
    def test_they_are_plausible(self):
        sizes = []
        for target in targets.objects(50, (600, 1000), 80, masks=False):
            boxes = target["boxes"]
            assert boxes.shape == (8, 4)
            assert ((boxes >= 0) & (boxes <= torch.tensor([1000, 600] * 2))).all()
            assert target["size"].tolist() == [600, 1000]
            assert ((target["labels"] >= 0) & (target["labels"] < 80)).all()
            sizes.append((boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt())
        sizes = torch.cat(sizes)
        assert sizes.min() > 600 / 64 - 1e-3
        assert sizes.max() < 300 + 1e-3
        assert (sizes < 53).float().mean() == pytest.approx(0.5, abs=0.06)  # √(600 / 64 · 300)

    def test_masks_fill_their_boxes_as_ellipses_do(self):
        (target,) = targets.objects(1, (300, 500), 80, masks=True)
        for mask, (left, top, right, bottom) in zip(target["masks"], target["boxes"].tolist(), strict=True):
            rows, columns = mask.nonzero().unbind(1)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert [float(side) for side in found] == pytest.approx([left, top, right, bottom], abs=2)
            area = torch.pi / 4 * (right - left) * (bottom - top)
            assert int(mask.sum()) == pytest.approx(area, rel=0.1, abs=10)

    def test_every_model_gets_the_same(self):
        first = targets.objects(2, (64, 64), 5, masks=True)
        torch.manual_seed(3)
        for one, other in zip(first, targets.objects(2, (64, 64), 5, masks=True), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in ("boxes", "labels", "masks"))


class TestFinding:
    @pytest.mark.parametrize("head", HEADS)
    def test_an_untrained_head_finds_as_many_objects_as_it_can(self, head):
        model = built(head)
        before = [len(found["scores"]) for found in model(images(), None)]
        detection.let_find(model, images())
        with torch.no_grad():
            (found,) = model(images())
        assert len(found["scores"]) == FOUND[head]
        assert before == [FOUND[head] if head in ("dino", "d_fine") else 0]
        assert len(found["labels"].unique()) > 20

    @pytest.mark.parametrize(("head", "module"), [("retinanet", retinanet), ("mask_rcnn", rcnn)])
    def test_a_thousand_pairs_of_each_image_pass_the_limit(self, head, module, monkeypatch):
        counts = []
        suppress = module.suppress
        monkeypatch.setattr(module, "suppress", lambda *args: counts.append(len(args[1])) or suppress(*args))
        model = built(head)
        detection.let_find(model, images(2))
        counts.clear()
        with torch.no_grad():
            model(images(2))
        assert sum(counts) == pytest.approx(2 * detection.PAIRS, abs=2)

    def test_the_scores_are_not_all_alike(self):
        model = built("mask_rcnn")
        detection.let_find(model, images())
        with torch.no_grad():
            (found,) = model(images())
        assert found["scores"].max() > 2 * found["scores"].min()


class TestCost:
    @pytest.mark.parametrize(
        "head", [pytest.param(head, marks=() if head == "mask_rcnn" else pytest.mark.slow) for head in ARGS]
    )
    def test_it_is_that_of_the_layers_that_are_computed(self, head, monkeypatch):
        monkeypatch.setattr(rpn, "PROPOSALS", 20)
        monkeypatch.setattr(rcnn, "DETECTIONS", 10)
        cost = steps.cost_of(Entry(NAME, head), config(head), SIZE)
        model = built(head).requires_grad_(False)
        detection.let_find(model, images())
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(images())
        assert cost == {"params": sum(p.numel() for p in model.parameters()), "macs": counter.get_total_flops() // 2}

    @pytest.mark.slow
    def test_mask_rcnn_on_convnext_costs_what_its_authors_say(self):
        """262 G at 1280 × 800: arXiv 2201.03545, table 3."""
        with torch.device("meta"):
            model = headed.with_head("convnext_tiny", "mask_rcnn", (800, 1280))
        assert detection.cost(model, "convnext_tiny", (800, 1280)).macs / 1e9 == pytest.approx(262, abs=0.5)


class TestParts:
    def test_they_are_shares_of_the_whole(self, monkeypatch):
        """Backbone 5 s, layers of the head 3 s, its choice 1 s, results 1 s."""
        now = [0.0]
        monkeypatch.setattr(parts.time, "perf_counter", lambda: now[0])

        def spend(seconds):
            now[0] += seconds
            return [torch.zeros(1, 1, 1, 1)]

        model = built("retinanet")
        model.backbone.forward = lambda images: spend(5)
        model.maps = lambda images: model.backbone(images)
        model.head.outputs = lambda maps: spend(3)
        model.head.detections = lambda maps, sizes: (model.head.outputs(maps), spend(1))
        watched = Parts(model, lambda: (model(images()), spend(1)))
        watched.run()
        watched.reset()
        watched.run()
        watched.run()
        assert watched.shares() == pytest.approx({"backbone": 0.5, "head": 0.3, "boxes": 0.1, "results": 0.1})

    @pytest.mark.parametrize("head", HEADS)
    def test_all_layers_are_in_the_backbone_or_the_head(self, head, monkeypatch):
        """On a clock that moves in convolutions and linear layers alone."""
        now, calls = [0], {"backbone": 0, "head": 0}
        monkeypatch.setattr(parts.time, "perf_counter", lambda: now[0])

        def tick(part, *_):
            now[0] += 1
            calls[part] += 1

        model = built(head)
        detection.let_find(model, images())
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
                module.register_forward_hook(partial(tick, name.partition(".")[0]))
        watched = Parts(model, lambda: steps.find(headed.task_of(head), Detections(model), images()))
        with torch.no_grad():
            watched.run()
        total = sum(calls.values())
        assert calls["head"] > 5
        assert watched.shares() == {**{part: count / total for part, count in calls.items()}, "boxes": 0, "results": 0}


class TestSteps:
    @pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
    def test_a_step_finds_the_objects_of_the_images(self, engine):
        step = steps.step_of(Entry(NAME, "retinanet"), config("retinanet", engine=engine), CPU, SIZE, 2)
        boxes, scores, labels = step.run()
        assert step.finds
        assert (step.parts is not None) == (engine == "torch")
        assert [len(one) for one in scores] == [100, 100]
        model = built("retinanet")
        detection.let_find(model, images(2))
        with torch.no_grad():
            expected = Detections(model)(images(2))
        found = [torch.stack(column) for column in (boxes, scores, labels)]
        assert difference([expected], [found]) < 1e-3

    @pytest.mark.parametrize(
        ("head", "task"),
        [
            ("mask_rcnn", "instances"),
            *(pytest.param(head, "detection", marks=pytest.mark.slow) for head in ("retinanet", "dino")),
        ],
    )
    def test_a_training_step_minimises_the_losses_of_the_head(self, head, task, monkeypatch):
        made, batches = [], []
        with_head, compute = headed.with_head, DetectionObjective.__call__
        monkeypatch.setattr(headed, "with_head", lambda *args: made.append(with_head(*args)) or made[0])

        def watched(self, *args):
            batches.append(args)
            return compute(self, *args)

        monkeypatch.setattr(DetectionObjective, "__call__", watched)
        run = steps.step_of(Entry(NAME, head), config(head, mode="train"), CPU, SIZE, 2).run
        before = {name: parameter.clone() for name, parameter in made[0].named_parameters()}
        run()
        ((model, batch),) = batches
        assert model is made[0]
        assert model.training
        assert batch.images.shape == (2, 3, *SIZE)
        assert [target["boxes"].shape for target in batch.targets] == [(8, 4)] * 2
        assert all(("masks" in target) == (task == "instances") for target in batch.targets)
        changed = [not torch.equal(before[name], parameter) for name, parameter in model.named_parameters()]
        assert sum(changed) > 0.9 * len(changed)  # where a last layer begins with zeros, those before it wait

    def test_a_run_is_timed_as_its_task_finds_objects(self, tmp_path):
        task, names = find_task("detection"), ["ant", "bee"]
        args = {"head": "retinanet", "head_args": ARGS["retinanet"], "score_threshold": 0.3}
        model = task.model(task.backbone(NAME, names), names, **args)
        preprocessing = task.preprocessing(model, train_config(task)(), 64).to_dict()
        save_checkpoint(
            tmp_path / "model.safetensors",
            model.state_dict(),
            CheckpointInfo(NAME, names, preprocessing, task="detection", task_args=args),
        )
        step = steps.step_of(Entry(str(tmp_path)), BenchConfig([str(tmp_path)], device="cpu"), CPU, SIZE, 1)
        assert step.finds
        assert [len(one) for one in step.run()[1]] == [0]  # untrained, and left as it is
