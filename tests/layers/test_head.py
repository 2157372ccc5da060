"""The classification head."""

import pytest
import torch
import torch.nn.functional as F

from agreement import random, randomised
from glocal.layers.head import ClassifierHead

pytestmark = pytest.mark.usefixtures("one_thread")

POOLS = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "avgmax": lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2,
    "catavgmax": lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("num_classes", [0, 5])
def test_pools_then_classifies(pool, num_classes):
    head, x = randomised(ClassifierHead(4, num_classes, pool, 0.0)), random(2, 4, 3, 5)
    pooled = POOLS[pool](x)
    assert head.out_dim == pooled.shape[1]
    torch.testing.assert_close(head(x, pre_logits=True), pooled)
    torch.testing.assert_close(head(x), F.linear(pooled, head.fc.weight, head.fc.bias) if num_classes else pooled)


def test_hidden_layer_comes_before_the_pooling():
    head, x = randomised(ClassifierHead(4, 5, "avg", 0.0, hidden_size=6)), random(2, 4, 3, 5)
    conv, _, norm = head.hidden
    y = F.gelu(F.conv2d(x, conv.weight, conv.bias)).permute(0, 2, 3, 1)
    pooled = F.layer_norm(y, (6,), norm.weight, norm.bias, 1e-6).mean((1, 2))
    torch.testing.assert_close(head(x, pre_logits=True), pooled)
    torch.testing.assert_close(head(x), F.linear(pooled, head.fc.weight, head.fc.bias))


def test_without_pooling_the_classifier_works_at_each_position():
    x = random(2, 4, 3, 5)
    assert torch.equal(ClassifierHead(4, 0, "", 0.0)(x), x)
    head = randomised(ClassifierHead(4, 6, "", 0.0))
    torch.testing.assert_close(head(x), F.conv2d(x, head.fc.weight[..., None, None], head.fc.bias))


def test_dropout_is_before_the_classifier():
    head, x = ClassifierHead(64, 5, "avg", 0.5).double(), random(8, 64, 3, 5)
    torch.testing.assert_close(head.eval()(x, pre_logits=True), x.mean((2, 3)))
    dropped = (head.train()(x, pre_logits=True) == 0).double().mean().item()
    assert dropped == pytest.approx(0.5, abs=0.15)
