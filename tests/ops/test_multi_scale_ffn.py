"""multi_scale_ffn equals its steps one by one, on every backend and in a graph."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from agreement import assert_agree, random
from glocal.ops import FFNParameters, dispatch, multi_scale_ffn

KERNELS = (1, 3, 5)


def parameters(expand, weight, bias, project, project_bias, **named):
    statistics = random(6, seed=2), random(6, seed=3).abs() + 0.5
    kernels, biases = ([named[f"{kind}{k}"] for k in KERNELS] for kind in ("kernel", "bias"))
    return FFNParameters(expand, *statistics, weight, bias, 1e-3, kernels, biases, project, project_bias)


def step_by_step(x, **named):
    p = parameters(**named)
    x = F.gelu(torch.einsum("bchw,dc->bdhw", x, p.expand[:, :, 0, 0]))
    x = (x - p.mean[:, None, None]) / (p.variance[:, None, None] + p.eps).sqrt()
    x = x * p.weight[:, None, None] + p.bias[:, None, None]
    out = []
    for channel in range(6):
        kernel, bias = p.kernels[channel // 2][channel % 2, 0], p.biases[channel // 2][channel % 2]
        out.append(F.conv2d(x[:, channel : channel + 1], kernel[None, None], padding=len(kernel) // 2) + bias)
    y = torch.einsum("bchw,dc->bdhw", F.gelu(torch.cat(out, dim=1)), p.project[:, :, 0, 0])
    return y if p.project_bias is None else y + p.project_bias[:, None, None]


def inputs(size):
    return {
        "x": random(2, 4, *size),
        "expand": random(6, 4, 1, 1, seed=1),
        "weight": random(6, seed=4),
        "bias": random(6, seed=5),
        "project": random(3, 6, 1, 1, seed=6),
        "project_bias": random(3, seed=7),
        **{f"kernel{k}": random(2, 1, k, k, seed=k) for k in KERNELS},
        **{f"bias{k}": random(2, seed=k + 1) for k in KERNELS},
    }


@pytest.mark.parametrize("form", [nullcontext, dispatch.as_exported], ids=["eager", "graph"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7)], ids=str)
def test_equals_its_steps(size, backend, form, monkeypatch):
    monkeypatch.setattr(dispatch, "_choice", backend)
    with form():
        assert_agree(lambda x, **named: multi_scale_ffn(x, parameters(**named)), step_by_step, inputs(size))


@pytest.mark.parametrize("form", [nullcontext, dispatch.as_exported], ids=["eager", "graph"])
def test_without_a_bias(form):
    named = inputs((5, 7)) | {"project_bias": None}
    with form():
        out = multi_scale_ffn(named["x"], parameters(**{key: named[key] for key in named if key != "x"}))
    torch.testing.assert_close(out, step_by_step(**named))
