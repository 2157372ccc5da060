"""Every head equals the authors' implementation on the golden cases (tests/golden/segmentation)."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import glocal
from glocal.models.create import split
from glocal.models.heads import HEADS
from golden.dense import FOLDER, dense_weights, feature, head_weights
from golden.errors import seen
from golden.official import image, probe, sample

CASES = sorted(path.stem for path in FOLDER.glob("*.npz"))
NAMES = {"upernet": "upernet", "sfpn": "semantic_fpn", "mask2former": "mask2former"}


def some_slow(pattern: str, cases: list[str]) -> list:
    """The cases; those in whose names this is found are slow, as others show the same."""
    return [pytest.param(case, marks=[pytest.mark.slow] if re.search(pattern, case) else []) for case in cases]


def parse(case: str) -> tuple[str, str, str, tuple[int, int], str]:
    """Kind, the authors' word for the head, variant, size, and the rest of a case's name."""
    found = re.fullmatch(r"(head|net)_([a-z0-9]+)_(\w+?)_(\d+)x(\d+)(?:_(\w+))?", case)
    kind, head, variant, height, width, rest = found.groups()
    return kind, head, variant, (int(height), int(width)), rest or ""


def build(head: str, variant: str, weights: dict[str, Tensor], folder: Path, **args) -> torch.nn.Module:
    """The model in float64, with these weights loaded from a file as the authors wrap it."""
    path = folder / "official.pth"
    torch.save({"meta": {"CLASSES": ("wall", "sky")}, "state_dict": weights}, path)
    args = {"dtype": torch.float64, **args}
    torch.set_default_dtype(torch.float64)
    try:
        return glocal.create(NAMES[head], variant, checkpoint=path, backbone_args=args)
    finally:
        torch.set_default_dtype(torch.float32)


def close(actual: Tensor, golden: dict, name: str, tolerance: float = 1e-6):
    """The tensor has the golden shape, root mean square and sampled values."""
    assert tuple(actual.shape) == tuple(golden[f"{name}_shape"])
    rms = float(golden[f"{name}_rms"])
    array = actual.detach().double().numpy()
    error = np.abs(sample(array, min(512, array.size)) - golden[name]).max() / rms
    assert seen(error, name) <= tolerance, f"{name}: worst error {error:.2e} of the rms"
    assert np.sqrt(np.square(array).mean()) == pytest.approx(rms, rel=tolerance)


def check_head(head: str, model, maps: list[Tensor], size: tuple[int, int], golden, tolerance: float = 1e-6):
    if head == "upernet":
        close(model.head.pyramid_pooling(maps[-1]), golden, "psp", tolerance)
        close(model.head.fused(maps), golden, "fused", tolerance)
        close(model.head(maps), golden, "logits", tolerance)
        close(model.auxiliary(maps), golden, "aux", tolerance)
    elif head == "sfpn":
        for i, x in enumerate(model.head.neck(maps)):
            close(x, golden, f"neck{i}", tolerance)
        close(model.head(maps), golden, "logits", tolerance)
    else:
        pixels = model.head.pixel_decoder(maps)
        close(pixels.mask_feature, golden, "mask_feature", tolerance)
        for i, x in enumerate(pixels.memory):
            close(x, golden, f"memory{i}", tolerance)
        predictions = model.head.predictions(pixels)
        for k in (0, 1, 5, 9):
            close(predictions[k].class_logits, golden, f"cls{k}", tolerance)
            close(predictions[k].mask_logits, golden, f"mask{k}", tolerance)
        close(model.decode(model.head(maps), size), golden, "seg", tolerance)


NETWORK_CASES = [case for case in CASES if case.startswith("net_")]
HEAD_CASES = [case for case in CASES if case.startswith("head_") and not case.endswith(("grad", "loss"))]


@pytest.mark.parametrize("case", some_slow("(mask2former_transnext_tiny_128x160|upernet)", HEAD_CASES))
def test_head(case, tmp_path):
    _, head, variant, size, _ = parse(case)
    golden = np.load(FOLDER / f"{case}.npz")
    model = build(head, variant, head_weights(head, variant), tmp_path).eval()
    maps = [feature(i, tuple(golden[f"feature{i}_shape"])) for i in range(4)]
    with torch.no_grad():
        check_head(head, model, maps, size, golden)


@pytest.mark.parametrize("case", some_slow("upernet", [case for case in HEAD_CASES if "mask2former" not in case]))
def test_head_in_single_precision(case, tmp_path):
    _, head, variant, size, _ = parse(case)
    golden = np.load(FOLDER / f"{case}.npz")
    model = build(head, variant, head_weights(head, variant), tmp_path).eval().float()
    maps = [feature(i, tuple(golden[f"feature{i}_shape"])).float() for i in range(4)]
    with torch.no_grad():
        check_head(head, model, maps, size, golden, 1e-5)


@pytest.mark.parametrize("case", some_slow("(transnext_tiny|transxnet_t)_128x160", NETWORK_CASES))
def test_network(case, tmp_path):
    _, head, variant, size, rest = parse(case)
    golden = np.load(FOLDER / f"{case}.npz")
    mode = re.fullmatch(r"inter(\d+)", rest)
    args = {"bias_mode": "interpolate", "img_size": int(mode[1])} if mode else {}
    model = build(head, variant, dense_weights(head, variant), tmp_path, **args).eval()
    x = torch.from_numpy(image(*np.take(golden["image_shape"], [0, 2, 3])))
    with torch.no_grad():
        maps = model.maps(x)
        for i, y in enumerate(maps):
            close(y, golden, f"feature{i}")
        check_head(head, model, maps, size, golden)
        if head != "mask2former":
            logits = model(x)
            close(F.interpolate(logits, size=size, mode="bilinear", align_corners=False), golden, "resized")


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("_grad")])
def test_gradients(case, tmp_path):
    _, head, variant, _, _ = parse(case)
    golden = np.load(FOLDER / f"{case}.npz")
    model = build(head, variant, head_weights(head, variant), tmp_path).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    maps = [feature(i, tuple(golden[f"feature{i}_shape"])).requires_grad_() for i in range(4)]
    logits = model.head(maps)
    close(logits, golden, "logits")
    loss = (logits * torch.from_numpy(probe(tuple(logits.shape)))).sum()
    if model.auxiliary is not None:
        aux = model.auxiliary(maps)
        close(aux, golden, "aux")
        loss = loss + 0.4 * (aux * torch.from_numpy(probe(tuple(aux.shape), seed=4322))).sum()
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-6)
    for i, x in enumerate(maps):
        close(x.grad, golden, f"input_grad{i}")
    gradients = official_names(
        head, variant, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    )
    expected = dict(zip(golden["names"].tolist(), golden["grad_norms"].tolist(), strict=True))
    assert gradients.keys() == expected.keys()
    floor = max(expected.values())
    for name, norm in expected.items():
        assert abs(gradients[name].norm().item() - norm) <= 1e-6 * max(norm, floor), name
    buffers = official_names(head, variant, dict(model.named_buffers()))
    for name, norm in zip(golden["buffer_names"].tolist(), golden["buffer_norms"].tolist(), strict=True):
        assert buffers[name].double().norm().item() == pytest.approx(norm, rel=1e-6), name


def official_names(head: str, variant: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the heads by the authors' names."""
    names = {}
    for name, tensor in head_weights(head, variant).items():
        _, heads = split({name: tensor}, HEADS[NAMES[head]])
        names[next(iter(heads))] = name
    return {names[name]: tensor for name, tensor in tensors.items() if name in names}
