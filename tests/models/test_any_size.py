"""Every family runs, forward and backward, at any size and batch, and treats each image by itself."""

import math

import pytest
import timm
import torch
from torch import nn

import glocal
from agreement import random, randomised
from glocal.deploy import fuse

pytestmark = pytest.mark.usefixtures("one_thread")

PICO = [name for name in glocal.model_names() if name.endswith("_pico")]
SIZES = [(32, 32), (33, 47), (64, 48), (97, 131), (224, 32)]


@pytest.mark.parametrize(
    ("size", "batch", "training"),
    [
        # Each size with each batch and in each mode, and where it is in CI, not with all of both.
        pytest.param(size, batch, training, marks=[pytest.mark.slow] * ((number + (batch == 3) + training) % 2 == 0))
        for number, size in enumerate(SIZES)
        for batch in (1, 3)
        for training in (True, False)
    ],
    ids=lambda value: {True: "train", False: "eval"}[value] if isinstance(value, bool) else str(value),
)
@pytest.mark.parametrize("name", PICO)
def test_forward_and_backward(name, size, batch, training):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).train(training)
    x = random(batch, 3, *size, dtype=torch.float32).requires_grad_()
    final, maps = model.forward_intermediates(x)
    assert len(maps) == 4
    for i, (feature, info) in enumerate(zip(maps, model.feature_info, strict=True)):
        stride = 4 * 2**i
        assert tuple(feature.shape) == (batch, info["num_chs"], *(math.ceil(n / stride) for n in size))
        assert feature.isfinite().all()
    logits = model.forward_head(final)
    assert tuple(logits.shape) == (batch, 7)
    assert logits.isfinite().all()
    (logits * random(batch, 7, seed=1, dtype=torch.float32)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert x.grad.isfinite().all()
    if training:
        assert all(buffer.isfinite().all() for buffer in model.buffers())


@pytest.mark.parametrize("size", [(32, 32), (33, 71)], ids=str)
@pytest.mark.parametrize("name", PICO)
def test_an_image_is_by_itself_in_eval_mode(name, size):
    model = randomised(timm.create_model(name, num_classes=7), 0.2).eval()
    images = random(3, 3, *size)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert not torch.allclose(together[0], together[1])
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", PICO)
def test_sizes_in_turn_leave_no_trace(name):
    """What is cached for one size must not serve another."""
    model = randomised(timm.create_model(name, num_classes=7), 0.2).eval()
    images = [random(1, 3, *size) for size in [(32, 64), (64, 32), (32, 33), (32, 32), (33, 33), (40, 32)]]
    with torch.no_grad():
        first = [model(image) for image in images]
        again = [model(image) for image in images[::-1]][::-1]
        model.eval()
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert all(torch.equal(a, model.eval()(image)) for a, image in zip(first, images, strict=True))


@pytest.mark.parametrize("name", PICO)
def test_channels_last_changes_no_result(name):
    model = randomised(timm.create_model(name, num_classes=7), 0.2).eval()
    x = random(2, 3, 47, 64)
    with torch.no_grad():
        expected = model(x)
        model.to(memory_format=torch.channels_last)
        actual = model(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prepare", [nn.Module.train, nn.Module.eval, fuse], ids=["train", "eval", "fused"])
@pytest.mark.parametrize("name", PICO)
def test_channels_last_from_end_to_end(name, prepare):
    """What every layer is given, and gives, has the channels of a position side by side, though parts of wider maps."""
    model = prepare(timm.create_model(name)).to(memory_format=torch.channels_last)
    seen = []

    def look(module, inputs, output):
        for x in (*inputs, output):
            if isinstance(x, torch.Tensor) and x.ndim == 4 and x.shape[1] > 1:
                seen.append((type(module).__name__, tuple(x.shape), x.stride(1)))

    for module in model.modules():
        module.register_forward_hook(look)
    with torch.set_grad_enabled(model.training):
        model(random(2, 3, 96, 128, dtype=torch.float32).contiguous(memory_format=torch.channels_last))
    assert len(seen) > 50
    assert [each for each in seen if each[2] != 1] == []


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", PICO)
def test_autocast(name, training):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, drop_rate=0.0).train(training)
    x = random(2, 3, 64, 48, dtype=torch.float32)
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.2, atol=0.1 * expected.abs().max().item())
    logits.float().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", PICO)
def test_low_precision(name, dtype):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    x = random(2, 3, 64, 48, dtype=torch.float32)
    with torch.no_grad():
        expected = model(x)
        logits = model.to(dtype)(x.to(dtype))  # after a forward in float32: nothing of it may be left in a cache
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.2, atol=0.1 * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in glocal.model_names() if not name.endswith("_pico")])
def test_every_published_variant_runs(name):
    model = timm.create_model(name).eval()
    with torch.no_grad():
        logits = model(random(1, 3, 65, 96, dtype=torch.float32))
    assert tuple(logits.shape) == (1, 1000)
    assert logits.isfinite().all()
