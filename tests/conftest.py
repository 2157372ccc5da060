"""Shared by all tests: `tests/` is importable, nothing reaches for a network."""

import contextlib
import functools
import gc
import os

import pytest

import extras

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: its kernels are checked on a CPU


def pytest_configure(config):
    """Import torch where tests run: not in the first process of xdist, for which the others would wait.

    Autograd looks for devices when it is first used; after a torch.export it finds one that cannot be forked, and the
    tests that train in forked children would fail.
    """
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        import torch

        torch.ones(1, requires_grad=True).sum().backward()


def pytest_ignore_collect(collection_path, config):
    """Ray, which starts threads of its own, stays out of the processes of CI: their tests fork."""
    return True if collection_path.name == "test_cluster.py" and config.option.markexpr == "not slow" else None


def pytest_collection_finish():
    """What is imported and collected by now stays: no search for garbage goes through these millions of objects."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """At its end Python looks through all of them, or libraries would report what they had left."""
    gc.unfreeze()


def pytest_addoption(parser):
    parser.addoption("--errors", action="store_true", help="list the worst error of each test with golden values")


def pytest_terminal_summary(terminalreporter, config):
    """With --errors, and without processes of their own for the tests."""
    if config.getoption("--errors"):
        from golden.errors import WORST

        terminalreporter.section("worst errors against golden values")
        for test, (error, name) in WORST.items():
            terminalreporter.line(f"{error:.1e}  {name:24} {test}")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skip a test module for which a library is missing, with the name of the extra that installs it."""
    report = yield
    extras.skip_where_missing(report, collector.path)
    return report


@pytest.fixture(scope="module")
def one_thread():
    """On tensors of a few kilobytes a second thread costs more than it brings, most of all on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """Compiled models are kept for the session, not in the user's cache."""
    os.environ["GLOCAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def onnxscript_read_once():
    """For every export to ONNX, torch parses the sources of 500 operators again, which takes half a second."""
    with contextlib.suppress(ImportError):  # where torch keeps them is its own affair
        from torch.onnx._internal._lazy_import import onnxscript_apis

        read = type(onnxscript_apis).__getattr__
        onnxscript_apis.get_torchlib_ops = functools.cache(lambda: read(onnxscript_apis, "get_torchlib_ops")())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A run folder of a small model for four classes and images of 32 pixels."""
    import timm
    import torch

    from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4)
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    info = CheckpointInfo("test_resnet", ["ant", "bee", "cat", "dog"], preprocessing)
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "model.safetensors", model.state_dict(), info)
    return folder


@pytest.fixture(scope="session")
def masks_checkpoint(tmp_path_factory):
    """A run folder of a small model for masks of five classes, which takes images whole, with a side of 32 pixels."""
    import torch

    import glocal
    from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint

    torch.manual_seed(0)
    names = ["ground", "tree", "house", "road", "<b>car</b>"]
    model = glocal.create("semantic_fpn", "van_pico", num_classes=len(names))
    torch.nn.init.normal_(model.head.classifier.weight)
    with torch.no_grad():  # so that an image has several classes
        model.head.classifier.bias -= model.eval()(torch.randn(1, 3, 64, 64)).mean((0, 2, 3))
    whole = {"shorter": 32, "longer": 128, "multiple": 1, "align": "pad", "antialias": False}
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "whole": whole}
    colors = [[0, 0, 0], [0, 128, 0], [220, 20, 60], [128, 64, 128], [0, 0, 142]]
    args = {"head": "semantic_fpn", "colors": colors, "ids": [0, 7, 11, 21, 300]}
    info = CheckpointInfo("van_pico", names, preprocessing, task="segmentation", task_args=args)
    folder = tmp_path_factory.mktemp("masks")
    save_checkpoint(folder / "model.safetensors", model.state_dict(), info)
    return folder
