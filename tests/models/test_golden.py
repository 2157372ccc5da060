"""Every model equals the authors' implementation on the golden cases (tests/golden)."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import glocal  # noqa: F401  registers the models
from golden.official import fill_official, image, official_keys, probe, sample

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))
FORWARD = [case for case in CASES if not case.endswith("_grad")]
GRADIENT = [case for case in CASES if case.endswith("_grad")]


def parse(case: str) -> tuple[str, int, int, dict]:
    """Variant, height, width and the model arguments that a case's name stands for."""
    variant, height, width, rest = re.fullmatch(r"(\w+?)_(\d+)x(\d+)(_\w+)?", case).groups()
    pool = re.fullmatch(r"_pool(\d+)", rest or "")
    return variant, int(height), int(width), {"pool_size": int(pool[1])} if pool else {}


def build(variant: str, dtype: torch.dtype = torch.float64, **kwargs) -> torch.nn.Module:
    """The variant with the golden parameters, loaded through its own conversion from official keys."""
    overlay = dict(state_dict=fill_official(variant))
    model = timm.create_model(variant, pretrained=True, pretrained_cfg_overlay=overlay, dtype=torch.float64, **kwargs)
    return model.to(dtype)


def close(actual: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-6):
    expected = np.asarray(expected, dtype=np.float64)
    error = np.abs(actual.detach().double().numpy() - expected) / np.maximum(1, np.abs(expected))
    assert error.max() <= tolerance, f"worst error {error.max():.2e}"


# A second size of a family takes seconds in double precision; that of 224 × 224 is the size of the gradients.
LARGER = ("transxnet_s", "transnext_tiny", "hat_net_small", "conv2former_t", "van_b1")
LARGER += ("transxnet_t_224x224", "transnext_micro_224x224", "conv2former_n_224x224", "van_b0_224x224")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * case.startswith(LARGER)) for case in FORWARD]
)
def test_forward_equals_the_original(case):
    variant, height, width, kwargs = parse(case)
    golden = np.load(GOLDEN / f"{case}.npz")
    model = build(variant, **kwargs).eval()
    x = torch.from_numpy(image(len(golden["logits"]), height, width))
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        close(model.forward_head(final), golden["logits"])
    for i, feature in enumerate(maps):
        assert tuple(feature.shape) == tuple(golden[f"stage{i}_shape"])
        close(torch.from_numpy(sample(feature.numpy())), golden[f"stage{i}"])
        assert feature.square().mean().sqrt().item() == pytest.approx(float(golden[f"stage{i}_rms"]), rel=1e-6)


SMALL = (
    "transxnet_t_192x320",
    "transnext_micro_224x224",
    "hat_net_tiny",
    "transcnn",
    "conv2former_n_192x320",
    "van_b0_200x168",
)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case.startswith(SMALL) else pytest.mark.slow) for case in FORWARD]
)
def test_forward_in_single_precision(case):
    variant, height, width, kwargs = parse(case)
    golden = np.load(GOLDEN / f"{case}.npz")
    model = build(variant, torch.float32, **kwargs).eval()
    x = torch.from_numpy(image(len(golden["logits"]), height, width)).float()
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        logits = model.forward_head(final).numpy()
    rms = np.sqrt(np.square(golden["logits"].astype(np.float64)).mean())
    assert np.abs(logits - golden["logits"]).max() <= 2e-4 * rms
    for i, feature in enumerate(maps):
        error = np.abs(sample(feature.numpy()) - golden[f"stage{i}"]).max()
        assert error <= 2e-4 * float(golden[f"stage{i}_rms"])


@pytest.mark.parametrize("case", GRADIENT)
def test_gradients_equal_the_original(case):
    variant, height, width, _ = parse(case.removesuffix("_grad"))
    golden = np.load(GOLDEN / f"{case}.npz")
    model = build(variant, drop_rate=0.0).train()
    x = torch.from_numpy(image(len(golden["logits"]), height, width)).requires_grad_()
    logits = model(x)
    loss = (logits * torch.from_numpy(probe(tuple(logits.shape)))).sum() / len(logits)
    loss.backward()
    close(loss, golden["loss"])
    close(logits, golden["logits"])
    close(torch.from_numpy(sample(x.grad.numpy())), golden["input_grad"])

    names = official_names(model, variant)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    norms = {
        official: tensors[ours].grad.norm().item()
        for official, ours in names.items()
        if tensors[ours].grad is not None  # buffers have none
    }
    assert set(golden["names"]) == set(norms)
    for name, expected in zip(golden["names"], golden["grad_norms"], strict=True):
        assert norms[name] == pytest.approx(expected, rel=1e-6, abs=1e-9), name
    if "buffer_names" in golden:
        for name, expected in zip(golden["buffer_names"], golden["buffer_norms"], strict=True):
            assert tensors[names[name]].double().norm().item() == pytest.approx(expected, rel=1e-6, abs=1e-9), name


def official_names(model: torch.nn.Module, variant: str) -> dict[str, str]:
    """Official name → ours, found by sending tensors that carry their own number through the conversion."""
    keys = official_keys(variant)
    marked = {name: torch.full(shape, float(number)) for number, (name, shape) in enumerate(keys.items())}
    converted = sys.modules[type(model).__module__].checkpoint_filter_fn(marked, model)
    official = list(keys)
    return {official[int(tensor.reshape(-1)[0])]: ours for ours, tensor in converted.items()}
