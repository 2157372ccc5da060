"""DINO equals the authors' implementation on the golden cases (tests/golden/detection)."""

from functools import cache

import numpy as np
import pytest
import torch

from glocal.models.detectors import DETECTORS
from glocal.models.detectors.dino import head as dino
from glocal.models.detectors.dino.denoising import hidden_pairs
from glocal.models.detectors.dino.matching import match
from glocal.models.detectors.dino.selection import candidates
from glocal.models.official import rename
from golden import detectors
from golden.detectors import (
    DenoisingRandom,
    all_keys,
    assert_close,
    assert_gradients,
    head_weights,
    load,
    sizes,
    stage_maps,
)

FOUR, FIVE = "dino4_transnext_tiny_256x320", "dino5_transnext_tiny_192x256"
CASES = [FOUR, pytest.param(FIVE, marks=pytest.mark.slow)]
TRAINING = f"{FOUR}_train"


def names(case: str) -> dict[str, str]:
    """The authors' name of each of our parameters."""
    found = {}
    for name in all_keys()["cases"][case]:
        prefix, (ours, renames) = next((p, part) for p, part in DETECTORS["dino"].parts.items() if name.startswith(p))
        found[(ours + rename(name.removeprefix(prefix), renames)).removeprefix("head.")] = name
    return found


@cache
def head_of(case: str) -> torch.nn.Module:
    head = DETECTORS["dino"].build([x.shape[1] for x in stage_maps(case)], 80, scales=int(case[4])).double()
    weights = head_weights(case)
    head.load_state_dict({ours: weights[name] for ours, name in names(case).items()})
    return head.eval()


@cache
@torch.no_grad()
def outputs_of(case: str):
    return head_of(case).outputs(stage_maps(case), sizes(load(case)))


@pytest.mark.parametrize("case", CASES)
def test_encoder(case):
    golden, head, outputs = load(case), head_of(case), outputs_of(case)
    maps, tokens = stage_maps(case), outputs.tokens
    with torch.no_grad():
        for i, x in enumerate(head.neck(maps[head.first_map :])):
            assert_close(x, golden, f"neck{i}")
        reference = tokens.places.unsqueeze(2) * tokens.shares.unsqueeze(1)
        first = head.encoder.layers[0](tokens.x, tokens.position, reference, tokens.sizes, tokens.padding)
    assert_close(tokens.position, golden, "pos")
    np.testing.assert_allclose(tokens.shares, golden["valid_ratios"], rtol=1e-9)
    assert tokens.padding.sum(1).tolist() == golden["padded_tokens"].tolist()
    assert_close(reference, golden, "enc_reference")
    assert_close(first, golden, "enc_layer0")
    assert_close(outputs.memory, golden, "memory")


@pytest.mark.parametrize("case", CASES)
def test_selection(case):
    golden, outputs = load(case), outputs_of(case)
    assert candidates(outputs.tokens).isfinite().all(-1).sum(1).tolist() == golden["proposals_valid"].tolist()
    scores = outputs.selected.class_logits.amax(-1)
    assert outputs.selected.index.tolist() == golden["query_selection_index"].tolist()
    np.testing.assert_allclose(scores[:, ::9], golden["query_selection_score"], rtol=1e-9)
    assert_close(outputs.decoded.references[0], golden, "init_reference")


@pytest.mark.parametrize("case", CASES)
def test_decoder(case):
    golden, outputs = load(case), outputs_of(case)
    for i, x in enumerate(outputs.decoded.hidden):
        assert_close(x, golden, f"dec_hidden{i}")
        assert_close(outputs.class_logits[i], golden, f"head_cls{i}")
        assert_close(outputs.boxes[i], golden, f"head_box{i}")
    for i, x in enumerate(outputs.decoded.references):
        assert_close(x, golden, f"dec_reference{i}")


@pytest.mark.parametrize("case", CASES)
def test_detections(case):
    golden = load(case)
    head = head_of(case)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "outputs", lambda *args: outputs_of(case))
        found = head(stage_maps(case), sizes(golden))
    for i, image in enumerate(found):
        boxes = image["boxes"] / detectors.original_scale(golden, i)
        count = len(golden[f"det{i}_scores"])
        assert len(boxes) == golden[f"det{i}_count"]
        assert image["labels"][:count].tolist() == golden[f"det{i}_labels"].tolist()
        np.testing.assert_allclose(image["scores"][:count], golden[f"det{i}_scores"], rtol=1e-9)
        np.testing.assert_allclose(boxes[:count], golden[f"det{i}_boxes"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(boxes.sum(0), golden[f"det{i}_box_sum"], rtol=1e-9)


def test_denoising_queries():
    golden, head = load(TRAINING), head_of(FOUR)
    head.random = DenoisingRandom()
    with torch.no_grad():
        noisy = head.denoising(detectors.targets(golden), sizes(golden))
    assert (noisy.content.shape[1], noisy.groups) == (golden["dn_queries"], golden["dn_groups"])
    assert_close(noisy.content, golden, "dn_label_query")
    np.testing.assert_allclose(noisy.boxes[:, : golden["dn_bbox_query"].shape[1]], golden["dn_bbox_query"], rtol=1e-6)
    hidden = hidden_pairs(noisy.size, noisy.groups, 900, torch.device("cpu")).numpy()
    assert hidden.shape == tuple(golden["dn_mask_shape"])
    assert hidden.sum() == golden["dn_mask_sum"]
    assert np.array_equal(np.packbits(hidden[:400:5, :400], axis=1).ravel(), golden["dn_mask_rows"])


@pytest.mark.slow
def test_training(monkeypatch):
    """Losses, matches, and the gradients of parameters and maps."""
    golden, head, maps = load(TRAINING), head_of(FOUR), [x.requires_grad_() for x in stage_maps(FOUR)]
    matches = []
    monkeypatch.setattr(dino, "match", lambda *args: matches.append(match(*args)) or matches[-1])
    head.random = DenoisingRandom()
    losses = head.train()(maps, sizes(golden), detectors.targets(golden))
    head.eval()
    expected = {name.removeprefix("loss/"): golden[name].item() for name in golden if name.startswith("loss/")}
    assert losses.keys() == expected.keys()
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-9)
    found = [one for of_layer in matches[0] for one in of_layer]
    for (queries, objects), rows in zip(found, golden["matches"], strict=True):
        assert torch.stack((queries, objects), 1).tolist() == rows[rows[:, 0] >= 0].tolist()
    total = sum(losses.values())
    assert total.item() == pytest.approx(golden["loss"].item(), rel=1e-9)
    total.backward()
    official = names(FOUR)
    assert_gradients({official[name]: p.grad for name, p in head.named_parameters()}, golden)
    for i, x in enumerate(maps[1:]):
        assert_close(x.grad, golden, f"input_grad{i}")
    head.zero_grad()
