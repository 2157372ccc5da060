"""The backend of an op: chosen once, forced or refused with a reason."""

import logging
import runpy
from pathlib import Path

import pytest
import torch

from glocal import ops
from glocal.ops import dispatch, listing

KERNELS = {"aggregated_attention", "channel_norm", "deformable_attention", "depthwise_conv", "sample_norm"}
OWN_ON_A_CPU = {
    "adaptive_average_pool",
    "aggregated_attention",
    "biased_attention",
    "cosine_attention",
    "depthwise_conv",
    "pointwise_conv",
    "recompute",
}


@pytest.fixture
def chosen(monkeypatch):
    """Set the backend for one test."""

    def choose(name, interpret=True):
        monkeypatch.setattr(dispatch, "_choice", name)
        monkeypatch.setenv("TRITON_INTERPRET", "1" if interpret else "0")
        dispatch._examine.cache_clear()

    yield choose
    monkeypatch.undo()
    dispatch._examine.cache_clear()


def convolve(dtype=torch.float32):
    return ops.depthwise_conv(torch.ones(1, 2, 4, 4, dtype=dtype), torch.ones(2, 1, 3, 3, dtype=dtype))


@pytest.mark.parametrize(
    ("choice", "own"),
    [("auto", OWN_ON_A_CPU), ("reference", set())],
    ids=["auto", "reference"],
)
def test_a_cpu_takes_its_own_way_where_there_is_one(chosen, choice, own, monkeypatch):
    chosen(choice)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not dispatch.can_use_triton("depthwise_conv", [torch.ones(1)])
    assert dispatch.can_use_cpu(torch.ones(1)) == bool(own)
    assert not dispatch.can_use_cpu(torch.ones(1, device="meta"))
    shown = {op: backend for op, _, backend, _ in listing.report()}
    assert shown == {op.name: "cpu" if op.name in own else "reference" for op in listing.ops()}


def test_the_list_of_ops_comes_from_their_folders():
    listed = {op.name: op for op in listing.ops()}
    assert {op for op in listed if "triton" in listed[op].backends} == KERNELS
    assert {op for op in listed if "cpu" in listed[op].backends} == OWN_ON_A_CPU
    assert set(listed) == {path.parent.name for path in Path(ops.__file__).parent.glob("*/__init__.py")}


@pytest.mark.parametrize("op", listing.ops(), ids=lambda op: op.name)
def test_an_op_is_public_has_tests_and_says_why_it_has_no_kernel(op):
    assert op.name in ops.__all__
    assert callable(getattr(ops, op.name))
    assert bool(op.no_kernel) == (op.name not in KERNELS)
    assert op.no_kernel != "there is no kernel"
    assert (Path(__file__).parent / f"test_{op.name}.py").is_file()


def test_a_view_of_a_tensor_too_large_to_count_in_32_bits():
    view = torch.empty(2, device="meta").as_strided((2,), (2**31,))
    assert dispatch._against([view]) == "a tensor spans more than 2,147,483,647 elements"
    assert dispatch._against([view[:1]]) is None


def test_more_samples_than_a_launch_has_programs():
    assert dispatch.too_many(65535) is None
    assert "more than 65,535" in dispatch.too_many(65536)


def test_report_of_kernels_that_cannot_run(chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen("triton", interpret=False)
    shown = {op: (backend, reason[:20]) for op, _, backend, reason in listing.report()}
    assert shown["pointwise_conv"] == ("cpu", "there is no kernel: ")
    assert shown["grid_attention"] == ("reference", "there is no kernel: ")
    for op in listing.ops():
        if op.name in KERNELS:
            assert shown[op.name] == ("none", "GLOCAL_OPS=triton, b")
        else:
            assert shown[op.name] == ("cpu" if op.name in OWN_ON_A_CPU else "reference", "there is no kernel: ")


def test_meta_tensors_take_no_kernel(chosen):
    chosen("triton")
    x, weight = torch.ones(1, 2, 4, 4, device="meta"), torch.ones(2, 1, 3, 3, device="meta")
    assert ops.depthwise_conv(x, weight).shape == x.shape


def test_a_gpu_without_a_compiler_is_refused(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(dispatch, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    dispatch._examine.cache_clear()
    try:
        assert "needs a C compiler" in dispatch._examine("cuda", 0)
    finally:
        dispatch._examine.cache_clear()


def test_a_graph_keeps_the_reference(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not dispatch.can_use_cpu(torch.ones(1))


def test_forced_kernels_say_which_check_failed(chosen):
    pytest.importorskip("triton")
    chosen("triton", interpret=False)
    with pytest.raises(RuntimeError, match=r"GLOCAL_OPS=triton, but depthwise_conv .* on the CPU.* TRITON_INTERPRET"):
        convolve()
    chosen("triton")
    with pytest.raises(RuntimeError, match="no kernel for float64"):
        convolve(torch.float64)
    with pytest.raises(RuntimeError, match="a tensor is empty"):
        ops.channel_norm(torch.ones(0, 2, 4, 4), torch.ones(2), torch.ones(2), 1e-6)
    maps = torch.ones(1, 1, 129, 2, 2)
    with pytest.raises(RuntimeError, match="wider than 128"):
        ops.aggregated_attention(maps, *[maps] * 2, *[torch.ones(1, 1, 129, 1)] * 2, *[torch.ones(1)] * 6)


def test_without_triton(chosen, monkeypatch):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    chosen("triton")
    with pytest.raises(RuntimeError, match="Triton is not installed"):
        convolve()


@pytest.mark.parametrize(
    ("capability", "reason"), [((7, 5), "compute capability 7.5, the kernels need 8.0"), ((9, 0), None)]
)
def test_what_a_gpu_must_be(chosen, monkeypatch, capability, reason):
    pytest.importorskip("triton")
    chosen("auto")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert (dispatch.refusal(torch.device("cuda")) or "").endswith(reason or "")
    assert (dispatch.refusal(torch.device("cuda")) is None) == (reason is None)
    assert "are on mps" in dispatch.refusal(torch.device("mps"))


def test_a_fallback_is_said_once(chosen, monkeypatch, caplog):
    """Not on a CPU: nobody waits for the kernels there."""
    chosen("auto")
    monkeypatch.setattr(dispatch, "_said", set())
    monkeypatch.setattr(dispatch, "refusal", lambda device: None)

    class OnGPU:
        is_cpu, is_meta, device, dtype = False, False, torch.device("cuda"), torch.float64

    with caplog.at_level(logging.WARNING, "glocal"):
        for _ in range(2):
            assert not dispatch.can_use_triton("channel_norm", [OnGPU()])
    assert caplog.messages == ["channel_norm is computed by the reference: there is no kernel for float64"]


def test_an_unknown_backend_is_refused(chosen, monkeypatch):
    with pytest.raises(ValueError, match="must be one of auto, reference, triton, got 'cuda'"):
        dispatch.set_backend("cuda")
    monkeypatch.setenv("GLOCAL_OPS", "fast")
    chosen(runpy.run_path(dispatch.__file__)["_choice"])  # as a new process reads it
    with pytest.raises(ValueError, match="GLOCAL_OPS must be one of auto, reference, triton, got 'fast'"):
        convolve()
