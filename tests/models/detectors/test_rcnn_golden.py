"""R-CNNs equal the authors' implementation on the golden cases (tests/golden/detection)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from glocal.models.create import split
from glocal.models.detectors import DETECTORS, matching, rcnn, rpn
from glocal.models.detectors.paste import paste
from golden.detectors import (
    CHANNELS,
    assert_close,
    assert_gradients,
    choose,
    head_weights,
    load,
    original_scale,
    parse,
    sizes,
    stage_maps,
    targets,
)

HEADS = {
    "maskrcnn": ("mask_rcnn", {}),
    "cascade2fc": ("cascade_mask_rcnn", {"box_head": "2fc"}),
    "cascade": ("cascade_mask_rcnn", {"box_head": "4conv1fc"}),
}
WHOLE = [  # minutes
    pytest.param((case, *HEADS[parse(case)[0]]), id=case, marks=pytest.mark.slow)
    for case in (
        "maskrcnn_van_b0_192x320",
        "maskrcnn_transnext_tiny_256x320",
        "cascade2fc_van_b2_192x320",
        "cascade_conv2former_t_256x320",
    )
]
WITHOUT_MASKS = pytest.param(("maskrcnn_van_b0_192x320", "faster_rcnn", {}), id="faster_rcnn")  # a few seconds
TOLERANCE = 1e-9


def build(case, name, args):
    """The head in float64 with the golden parameters, and the authors' name of each of ours."""
    with torch.device("meta"):
        head = DETECTORS[name].build(CHANNELS[parse(case)[1]], 80, **args)
    weights, names = {}, {}
    for official, tensor in head_weights(case).items():
        if head.mask_heads or "mask_head" not in official:
            ((key, value),) = ours({official: tensor}, name).items()
            weights[key], names[key] = value, official
    head.load_state_dict(weights, assign=True)
    head.choose = choose
    return head, names


def ours(weights, name):
    return {key.removeprefix("head."): tensor for key, tensor in split(weights, DETECTORS[name])[1].items()}


@pytest.fixture(scope="module")
def case(request):
    case, name, args = request.param
    head, names = build(case, name, args)
    return SimpleNamespace(golden=load(case), head=head, names=names, maps=stage_maps(case))


inference = pytest.mark.parametrize("case", [WITHOUT_MASKS, *WHOLE], indirect=True)
whole = pytest.mark.parametrize("case", WHOLE, indirect=True)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=TOLERANCE, atol=TOLERANCE)


def record(module, name):
    """A list that gets what the method returns, until it is deleted from the module."""
    method, results = getattr(module, name), []
    setattr(module, name, lambda *args: results.append(method(*args)) or results[-1])
    return results


@pytest.fixture(scope="module")
def seen(case):
    """What inference computes on its way, and its result."""
    head, found = case.head.eval(), SimpleNamespace()
    with torch.no_grad():
        found.pyramid = head.pyramid(case.maps)
        found.rpn = head.rpn(found.pyramid)
        found.proposals = head.rpn.proposals(*found.rpn, sizes(case.golden))
        found.stages = record(head, "classified")
        found.masks = record(head, "mask_logits")
        found.objects = head(case.maps, sizes(case.golden))
        del head.classified, head.mask_logits
    return found


@inference
def test_raw_outputs(case, seen):
    for i, x in enumerate(seen.pyramid):
        assert_close(x, case.golden, f"neck{i}")
    for name, levels in zip(("rpn_cls", "rpn_reg"), seen.rpn, strict=True):
        for i, x in enumerate(levels):
            assert_close(x, case.golden, f"{name}{i}")
    count = len(case.head.stages)
    for i in range(count):
        of_images = seen.stages[i::count]
        for name, parts in zip(("roi_cls", "roi_reg"), zip(*of_images, strict=True), strict=True):
            assert_close(torch.cat(parts), case.golden, f"{name}{i}")
    assert f"roi_cls{count}" not in case.golden


@inference
def test_proposals(case, seen):
    for i, (boxes, scores) in enumerate(seen.proposals):
        assert len(boxes) == case.golden[f"prop{i}_count"]
        close(boxes[:50], case.golden[f"prop{i}_boxes"])
        close(scores[:50], case.golden[f"prop{i}_scores"])
        close(torch.cat((boxes, scores[:, None]), 1).sum(0), case.golden[f"prop{i}_sum"])


@inference
def test_detections(case, seen):
    for i, found in enumerate(seen.objects):
        close(found["boxes"] / original_scale(case.golden, i), case.golden[f"det{i}_boxes"])
        close(found["scores"], case.golden[f"det{i}_scores"])
        assert found["labels"].tolist() == case.golden[f"det{i}_labels"].tolist()


@whole
def test_masks(case, seen):
    for stage, of_images in enumerate(zip(*seen.masks, strict=True)):
        assert_close(torch.cat(of_images), case.golden, f"mask_logits{stage}")
    for of_image, found in zip(seen.masks, seen.objects, strict=True):
        mean = sum(logits.sigmoid() for logits in of_image) / len(of_image)
        torch.testing.assert_close(found["masks"].sigmoid(), mean, rtol=1e-12, atol=1e-12)


@whole
def test_pasted_masks(case, seen):
    for i, found in enumerate(seen.objects):
        size = case.golden[f"meta{i}_ori_shape"][:2]
        pasted = paste(found["masks"], found["boxes"] / original_scale(case.golden, i), size)
        assert pasted.sum((1, 2)).tolist() == case.golden[f"mask{i}_area"].tolist()
        assert np.packbits(pasted[0].numpy()).tolist() == case.golden[f"mask{i}_first"].tolist()


@pytest.fixture(scope="module")
def trained(case, seen):
    """The losses, and what was drawn for them; gradients are in the head and the maps."""
    head, found = case.head.train(), SimpleNamespace(drawn=[])
    for map_ in case.maps:
        map_.requires_grad_()

    def recorded(*args):
        found.drawn.append(matching.sample(*args))
        return found.drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rpn, "sample", recorded)
        patch.setattr(rcnn, "sample", recorded)
        proposals = record(head.rpn, "proposals")
        found.losses = head(case.maps, sizes(case.golden), targets(case.golden))
    del head.rpn.proposals
    (found.proposals,) = proposals
    found.total = sum(value.sum() for name, value in found.losses.items() if "loss" in name)
    found.total.backward()
    return found


@whole
def test_sampling(case, trained):
    assert [len(of_image.boxes) for of_image in trained.proposals] == case.golden["train_prop_count"].tolist()
    rows = [[len(pos), len(neg), int(pos.sum()), int(neg.sum())] for pos, neg in trained.drawn]
    assert rows == case.golden["sampled"].tolist()


@whole
def test_losses(case, trained):
    expected = {name.removeprefix("loss/"): value for name, value in case.golden.items() if name.startswith("loss/")}
    assert trained.losses.keys() == expected.keys()
    for name, value in trained.losses.items():
        close(value.detach().double().sum(), expected[name].astype(float).sum())
        assert value.shape == ((5,) if "rpn" in name else ()), name
        assert value.requires_grad == ("loss" in name)
    close(trained.total.detach(), case.golden["loss"].reshape(()))


@whole
def test_gradients(case, trained):
    names = dict(case.head.named_parameters())
    assert_gradients({case.names[name]: p.grad for name, p in names.items()}, case.golden)
    for i, map_ in enumerate(case.maps):
        assert_close(map_.grad, case.golden, f"input_grad{i}")


@whole
def test_statistics_of_batch_norms(case, trained):
    buffers = {case.names[name]: buffer for name, buffer in case.head.named_buffers()}
    expected = dict(zip(case.golden.get("bn_names", ()), case.golden.get("bn_norms", ()), strict=True))
    assert bool(expected) == bool(buffers)
    assert {name: buffers[name].double().norm().item() for name in expected} == pytest.approx(expected, rel=TOLERANCE)
