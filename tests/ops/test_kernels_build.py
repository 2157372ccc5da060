"""Every Triton kernel compiles for a Hopper GPU, at the sizes of real models, without a GPU.

The launches of a model's training step are recorded on a CPU, then compiled for compute capability 9.0. Run with
`python tests/ops/test_kernels_build.py` it prints registers and spills too, where ptxas is at hand.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("triton")

DTYPES = ("float32", "bfloat16", "float16")


@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(name, marks=pytest.mark.slow) for name in DTYPES if name != "bfloat16")]
)
def test_kernels_compile_for_hopper(dtype):
    import fresh  # not at the top: by itself this file is a script

    program = f"import runpy, sys; sys.argv[0] = {__file__!r}; runpy.run_path({__file__!r}, run_name='__main__')"
    result = fresh.run(program, dtype, TRITON_INTERPRET="0")
    assert result.returncode == 0, result.stderr[-2000:]
    built = set(re.findall(r"^(\S+/_\w+)", result.stdout, re.MULTILINE))
    assert built == {f"{op}/{name}" for op, names in ENTRIES.items() for name in names}


def test_no_kernel_is_left_out():
    for path in (Path(__file__).parents[2] / "src/glocal/ops").glob("*/triton.py"):
        launched = set(re.findall(r"(?<![\w.])(_\w+)\[", path.read_text()))
        assert launched == set(ENTRIES[path.parent.name])


ENTRIES = {
    "depthwise_conv": ["_convolve", "_gate_gradient", "_weight_gradient"],
    "aggregated_attention": [
        "_forward",
        "_query_gradient",
        "_neighbour_gradient",
        "_pooled_gradient",
        "_bias_gradient",
    ],
    "channel_norm": ["_forward", "_backward"],
    "deformable_attention": ["_forward", "_read_gradient", "_value_gradient"],
    "sample_norm": ["_statistics", "_forward", "_sums", "_backward"],
}


def main(dtypes):
    import importlib

    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {
        torch.float32: "*fp32",
        torch.bfloat16: "*bf16",
        torch.float16: "*fp16",
        torch.int32: "*i32",
        torch.int64: "*i64",
    }
    launches = []

    class Recorder:
        def __init__(self, name, kernel):
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid):
            return lambda *args, **kwargs: launches.append((self.name, self.kernel, args, kwargs))

    modules = {op: importlib.import_module(f"glocal.ops.{op}.triton") for op in ENTRIES}
    for op, names in ENTRIES.items():
        for name in names:
            setattr(modules[op], name, Recorder(f"{op}/{name}", getattr(modules[op], name)))

    for dtype in dtypes:
        launches.clear()
        step(modules, getattr(torch, dtype))
        done = set()
        for name, kernel, args, kwargs in launches:
            named = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
            options = {n: named.pop(n) for n in kwargs if n not in kernel.arg_names}
            constants = {p.name: named[p.name] for p in kernel.params if p.is_constexpr}
            constants |= {
                n: 1 for n, value in named.items() if type(value) is int and value == 1 and n not in constants
            }
            signature, aligned = {}, {}
            for i, n in enumerate(kernel.arg_names):
                value = named[n]
                if n in constants:
                    signature[n] = "constexpr"
                elif isinstance(value, torch.Tensor):
                    signature[n], aligned[(i,)] = types[value.dtype], [["tt.divisibility", 16]]
                elif isinstance(value, float):
                    signature[n] = "fp32"
                else:
                    signature[n] = "i32"
                    if value % 16 == 0:
                        aligned[(i,)] = [["tt.divisibility", 16]]
            key = (name, tuple(signature.items()), tuple(constants.items()), tuple(aligned))
            if key in done:
                continue
            done.add(key)
            source = ASTSource(kernel, signature, constants, aligned)
            built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            print(name, dtype, ptxas(built.asm["ptx"]), flush=True)


def step(modules, dtype):
    """Launches of forward and backward passes, recorded: the tensors hold nothing."""
    import torch

    def maps(*shape, last=True):
        x = torch.empty(*shape, dtype=dtype)
        return (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()

    def parameter(*shape):
        return torch.empty(*shape, dtype=dtype, requires_grad=True)

    conv, attend = modules["depthwise_conv"], modules["aggregated_attention"]
    for last in (True, False):
        x = maps(8, 64, 56, 56, last=last)
        for kernel, dilation in ((3, 1), (7, 3), (11, 1)):
            conv.depthwise_conv(x, parameter(64, 1, kernel, kernel), parameter(64), dilation).sum().backward()
        conv.depthwise_conv(x, parameter(8, 64, 7, 7), parameter(8, 64)).sum().backward()
        conv.depthwise_conv(x, parameter(64, 1, 3, 3), parameter(64), gelu=True, residual=x, factor=x).sum().backward()
        weight, reach = conv.multi_scale([parameter(16, 1, k, k) for k in (1, 3, 5, 7)])
        conv.depthwise_conv(x, weight, parameter(64), residual=x, reach=reach).sum().backward()
        for name in ("channel_norm", "sample_norm"):
            getattr(modules[name], name)(x, parameter(64), parameter(64), 1e-6).sum().backward()
    sizes = [(28, 28), (14, 14), (7, 7), (4, 4)]
    count = sum(height * width for height, width in sizes)
    reads = parameter(2, count, 8, 4, 4, 2), parameter(2, count, 8, 4, 4)
    modules["deformable_attention"].deformable_attention(parameter(2, count, 8, 32), sizes, *reads).sum().backward()
    heads, d, pooled = 3, 24, 49
    q, k, v = (maps(8, heads * d, 56, 56).unflatten(1, (heads, d)) for _ in range(3))
    keys, values = (parameter(8, heads, d, pooled) for _ in range(2))
    inputs = attend.Inputs(
        q, k, v, keys, values, parameter(heads, d), parameter(heads), parameter(heads, 9),
        parameter(heads, 56 * 56, pooled).transpose(1, 2), parameter(heads, d, 9), parameter(heads, 9),
    )  # fmt: skip
    attend.aggregated_attention(inputs).sum().backward()


def ptxas(ptx):
    """Registers and spills of a kernel, as an assembler of Triton counts them; "" where none can."""
    import triton

    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        for program in (folder / "ptxas", folder / "ptxas-blackwell"):  # the first that knows this version of PTX
            if program.exists():
                command = [str(program), "-v", "--gpu-name", "sm_90a", "-o", os.devnull, file.name]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode == 0:
                    return ", ".join(re.findall(r"\d+ registers|\d+ bytes spill stores", result.stderr))
    return ""


if __name__ == "__main__":
    main(sys.argv[1:] or DTYPES)
