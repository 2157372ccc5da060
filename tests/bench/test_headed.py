"""Backbones with a head, timed: what is trained, what is counted, and what is compared with what."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glocal.bench import headed, steps, targets, timing
from glocal.bench.config import BenchConfig
from glocal.bench.steps import Entry
from glocal.data.masks import IGNORE
from glocal.tasks import find_task

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def config(models=("van_pico",), head="semantic_fpn", **options):
    options = {"sizes": "33x50", "rounds": 2, "device": "cpu"} | options
    return BenchConfig(list(models), "test_mambaout", task="segmentation", head=head, **options)


def test_label_maps_look_like_those_of_photographs():
    maps = targets.label_maps(3, (1024, 1000), 150)
    assert maps.shape == (3, 1024, 1000)
    assert (maps == IGNORE).float().mean() == pytest.approx(0.2, abs=0.03)
    assert [len(one[one != IGNORE].unique()) for one in maps] == [10] * 3
    assert all(torch.equal(maps[:, 0, :32], maps[:, row, :32]) for row in range(32))


@pytest.mark.parametrize("mode", [pytest.param("infer", marks=pytest.mark.slow), "train"])
def test_models_are_compared_with_the_baseline_of_their_kind(mode):
    rows = timing.compare(config(mode=mode, backbones=True, batch_sizes="2", rounds=1))
    assert [(row.model, row.head, row.error) for row in rows] == [
        (name, head, "") for name in ("test_mambaout", "van_pico") for head in ("", "semantic_fpn")
    ]
    for row in rows:
        base = next(one for one in rows if one.model == "test_mambaout" and one.head == row.head)
        assert row.ratio == pytest.approx(row.ms / base.ms)
        model = headed.with_head(row.model, row.head, row.size) if row.head else None
        model = model or headed.backbone(row.model, row.size)
        assert row.params == sum(parameter.numel() for parameter in model.parameters())
    alone, whole = rows[2:]
    assert whole.macs > 10 * alone.macs > 0


def test_without_the_backbones_alone():
    assert timing._entries(["a", "b"], config()) == [("a", "semantic_fpn"), ("b", "semantic_fpn")]


@pytest.mark.parametrize("head", ["semantic_fpn", "mask2former"])
def test_costs_are_those_of_the_model_with_its_head(head):
    cost = steps.cost_of(Entry("van_pico", head), config(head=head), (64, 96))
    model = headed.with_head("van_pico", head, (64, 96)).eval().requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 96))
    assert cost == {"params": sum(p.numel() for p in model.parameters()), "macs": counter.get_total_flops() // 2}


@pytest.mark.parametrize(
    "head", ["semantic_fpn", *(pytest.param(head, marks=pytest.mark.slow) for head in ("upernet", "mask2former"))]
)
def test_a_training_step_minimises_the_loss_of_the_task(head, monkeypatch):
    made, batches = [], []
    with_head, task = headed.with_head, find_task("segmentation")
    monkeypatch.setattr(headed, "with_head", lambda *args: made.append(with_head(*args)) or made[0])
    objective = type(task).objective

    def watched(self, options, source, preprocessing):
        assert (options.head, len(source.class_names)) == (head, 150)
        compute = objective(self, options, source, preprocessing)

        class Watched:
            to = compute.to

            def __call__(self, model, batch):
                batches.append((model, batch))
                return compute(model, batch)

        return Watched()

    monkeypatch.setattr(type(task), "objective", watched)
    step = steps.step_of(Entry("van_pico", head), config(head=head, mode="train"), CPU, (64, 96), 2).run
    before = [parameter.clone() for parameter in made[0].parameters()]
    step()
    ((model, batch),) = batches
    assert model is made[0]
    assert model.training
    assert (batch.images.shape, batch.targets.shape) == ((2, 3, 64, 96), (2, 64, 96))
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_backbone_alone_trains_all_its_parameters():
    model = headed.backbone("van_pico", (64, 96))
    headed.loss_of(model, "", torch.randn(2, 3, 64, 96))().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_models_of_one_size_are_built_for_the_size():
    model = headed.backbone("swin_tiny_patch4_window7_224", (64, 96))
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 64, 96))[0].shape == (1, 16, 24, 96)


def test_defaults_follow_the_task():
    first, other, objects, masks = (
        BenchConfig(["van_pico"], task=task) for task in ("classification", "segmentation", "detection", "instances")
    )
    assert (first.batch_sizes, first.sizes, first.head) == ("8", "224", None)
    assert (other.batch_sizes, other.sizes, other.head) == ("1", "512", "upernet")
    assert (objects.batch_sizes, objects.sizes, objects.head) == ("1", "800x1280", "retinanet")
    assert (masks.batch_sizes, masks.sizes, masks.head) == ("1", "800x1280", "mask_rcnn")


def test_a_model_without_maps_is_a_row_with_the_reason():
    rows = timing.compare(config(["test_vit"], rounds=1, batch_sizes="1"))
    assert "no maps at the strides" in rows[1].error
    assert rows[0].ms > 0
