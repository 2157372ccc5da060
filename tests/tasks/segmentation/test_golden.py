"""Losses, matching and test modes equal the authors' on the golden cases (tests/golden/segmentation)."""

import copy

import numpy as np
import pytest
import torch

from glocal.data.batch import Batch, Example
from glocal.data.geometry import Geometry
from glocal.data.masks import IGNORE
from glocal.tasks.segmentation.inference import mean_probabilities, predict, sliding_logits, whole_logits
from glocal.tasks.segmentation.losses import pixel_cross_entropy
from glocal.tasks.segmentation.mask2former_loss import POINTS, mask2former_loss, masks_of, match, matching_cost
from golden.dense import FOLDER, dense_weights, feature, head_weights
from golden.official import image
from models.heads.test_golden import build, close, official_names, parse


def test_cross_entropy(tmp_path):
    golden = np.load(FOLDER / "head_upernet_van_b0_64x96_grad.npz")
    model = build("upernet", "van_b0", head_weights("upernet", "van_b0"), tmp_path).train()
    model.head.drop.p = model.auxiliary.drop.p = 0.0
    shape = tuple(golden["feature0_shape"])
    maps = [feature(i, tuple(golden[f"feature{i}_shape"])) for i in range(4)]
    labels = np.random.RandomState(99).randint(0, 150, (shape[0], 64, 96))
    labels[np.random.RandomState(98).random_sample(labels.shape) < 0.2] = IGNORE
    labels = torch.from_numpy(labels)
    with torch.no_grad():
        loss = pixel_cross_entropy(model.head(maps), labels)
        aux = 0.4 * pixel_cross_entropy(model.auxiliary(maps), labels)
    assert loss.item() == pytest.approx(float(golden["ce_decode"]), rel=1e-6)
    assert aux.item() == pytest.approx(float(golden["ce_aux"]), rel=1e-6)


def test_a_batch_that_is_all_ignore_has_no_loss_and_no_gradient():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((2, 16, 16), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


class Draws:
    """The golden random numbers, call by call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, shape):
        self.calls += 1
        return torch.from_numpy(np.random.RandomState(3000 + self.calls - 1).random_sample(tuple(shape)))


def blocks(height, width, batch):
    """Labels in blocks of 16 × 16 pixels."""
    shape = batch, -(-height // 16), -(-width // 16)
    labels = np.random.RandomState(99).randint(0, 12, shape)
    labels[np.random.RandomState(98).random_sample(shape) < 0.15] = IGNORE
    return torch.from_numpy(labels.repeat(16, 1).repeat(16, 2)[:, :height, :width].copy())


def test_mask2former_loss(tmp_path):
    case = "head_mask2former_transnext_tiny_96x128_loss"
    golden = np.load(FOLDER / f"{case}.npz")
    _, head, variant, (height, width), _ = parse(case)
    model = build(head, variant, head_weights(head, variant), tmp_path).train()
    maps = [feature(i, tuple(golden[f"feature{i}_shape"])).requires_grad_() for i in range(4)]
    targets = [masks_of(labels) for labels in blocks(height, width, len(maps[0]))]
    predictions = model.head.predictions(model.head.pixel_decoder(maps))
    draws = Draws()
    losses = mask2former_loss(predictions, targets, draws)
    assert draws.calls == int(golden["rand_calls"])
    for name, value in zip(golden["loss_names"].tolist(), golden["loss_values"].tolist(), strict=True):
        assert losses[name].item() == pytest.approx(value, rel=1e-6), name
    assert losses["loss"].item() == pytest.approx(float(golden["loss"]), rel=1e-6)
    losses["loss"].backward()
    for i, x in enumerate(maps):
        close(x.grad, golden, f"input_grad{i}")
    gradients = official_names(head, variant, {name: p.grad for name, p in model.named_parameters()})
    expected = dict(zip(golden["names"].tolist(), golden["grad_norms"].tolist(), strict=True))
    floor = max(expected.values())
    wrong = {
        name: (gradients[name].norm().item(), norm)
        for name, norm in expected.items()
        if abs(gradients[name].norm().item() - norm) > 1e-6 * max(norm, floor)
    }
    assert not wrong
    last = Draws()
    last.calls = 36  # of the nine predictions before
    for b, target in enumerate(targets):
        with torch.no_grad():
            class_logits, mask_logits = (part[b] for part in predictions[-1])
            cost = matching_cost(class_logits, mask_logits, target, last((1, POINTS, 2)))
        np.testing.assert_allclose(cost.numpy(), golden[f"cost_last_{b}"], rtol=1e-5, atol=1e-5)
    last.calls = 36
    for b, (queries, masks) in enumerate(match(predictions[-1], targets, last)):
        assigned = np.zeros(100)
        assigned[queries.numpy()] = masks.numpy() + 1
        assert np.array_equal(assigned, golden[f"assigned_last_{b}"])


@pytest.fixture(scope="module")
def upernet(tmp_path_factory):
    """UPerNet in double precision, and in single, which takes a quarter of the time."""
    folder = tmp_path_factory.mktemp("upernet")
    model = build("upernet", "van_b0", dense_weights("upernet", "van_b0"), folder).eval()
    return model, copy.deepcopy(model).float()


def test_sliding_window(upernet):
    golden = np.load(FOLDER / "test_slide_upernet_van_b0_96x136.npz")
    model, single = upernet
    images = torch.from_numpy(image(1, 96, 136))
    with torch.no_grad():
        logits = sliding_logits(model, images, tuple(golden["crop"]), tuple(golden["stride"]))
        close(logits, golden, "slide_logits")
        probabilities = model.decode(logits, tuple(golden["ori_shape"].tolist()))
        close(probabilities, golden, "prob")
        side, stride = int(golden["crop"][0]), int(golden["stride"][0])
        assert_predicted(single, [images], golden, {"window": [side, stride]}, probabilities)


def test_several_scales_and_flips(upernet):
    golden = np.load(FOLDER / "test_aug_upernet_van_b0.npz")
    model, single = upernet
    scales = [torch.from_numpy(image(1, *size, seed=1234 + i)) for i, size in enumerate(golden["image_sizes"].tolist())]
    with torch.no_grad():
        found = mean_probabilities(lambda x: whole_logits(model, x), scales, tuple(golden["ori_shape"].tolist()))
    close(found, golden, "prob")
    assert np.array_equal(found.argmax(1)[0, ::8, ::8].numpy(), golden["argmax"])
    assert_predicted(single, scales, golden, {"flip": True}, found)


def assert_predicted(model, scales, golden, args, probabilities):
    """The commands' way to the label map, in their single precision, has the classes with the golden probabilities."""
    size = tuple(golden["ori_shape"].tolist())
    examples = [Example(x[0].float(), geometry=Geometry(size, tuple(x.shape[2:]), (0, 0, *size))) for x in scales]
    first = examples[0]._replace(more=tuple(examples) if len(examples) > 1 else ())
    (labels,), (confidence,) = predict(model, Batch.of([first]), {"head": "upernet", **args})
    expected = probabilities.argmax(1)[0]
    assert (labels == expected).float().mean() > 0.9999  # single precision decides ties
    present = expected.unique()
    means = torch.stack([probabilities[0].amax(0)[expected == c].mean() for c in present])
    assert torch.allclose(confidence[present].double(), means, atol=1e-4)
