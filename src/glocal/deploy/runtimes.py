"""The runtimes of exported files, each as a function: float32 images (B, C, H, W) to a list of arrays.

The function of a model that takes the sizes of images (`Task.outputs`) takes them too, as the second argument.
"""

import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from glocal.errors import MissingExtraError

Run = Callable[..., list[np.ndarray]]  # of images, and of sizes where the model takes them
# The packages that each runtime needs, and int8.
PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": (), "int8": ("nncf",)}


def require(runtime: str) -> None:
    """Raise ImportError, which names the extra, if a runtime is not installed."""
    missing = [package for package in PACKAGES[runtime] if find_spec(package) is None]
    if missing:
        extra = "int8" if runtime == "int8" else "export"
        raise MissingExtraError(f"{runtime} needs {' and '.join(missing)}: pip install 'glocal[{extra}]'")


def load(path: Path) -> Run:
    """An exported file as a function. Its ending chooses the runtime, which has its default settings."""
    return {".onnx": onnx, ".xml": openvino, ".pt2": _torch}[path.suffix](path)


def onnx(path: Path, threads: int | None = None) -> Run:
    """A file for ONNX Runtime as a function. threads: cores to use, by default all."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


@cache
def openvino_core():
    """The only `openvino.Core` of the process.

    Each Core installs its own stack for signal handlers, and restores the previous stack when it ends. If two Cores end
    in the order in which they began, no valid stack is left, and the next signal (Ctrl-C, say) kills the process.
    """
    import openvino

    return openvino.Core()


def openvino(
    path: Path, shape: tuple[int, ...] | None = None, threads: int | None = None, precision: str = "f32"
) -> Run:
    """A file for OpenVINO as a function.

    shape: the fixed shape of the images, for which the graph is prepared. threads: cores to use, by default all.
    precision: in which it computes; some processors would otherwise compute in bfloat16.
    """
    graph = openvino_core().read_model(path)
    if shape is not None:
        graph.reshape({graph.inputs[0]: list(shape)})
    settings: dict = {"INFERENCE_PRECISION_HINT": precision}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino_core().compile_model(graph, "CPU", settings)
    return lambda *inputs: list(compiled(list(inputs)).values())


def _torch(path: Path) -> Run:
    import torch

    model = torch.export.load(path).module()

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            result = model(*map(torch.from_numpy, inputs))
        return [tensor.numpy() for tensor in as_list(result)]

    return run


def as_list(result):
    """A model's result as a list of tensors."""
    return list(result) if isinstance(result, list | tuple) else [result]


@contextmanager
def quiet():
    """Hide the exporters' advice and progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "openvino", "nncf")]
    restored = [*loggers, logging.getLogger()]  # OpenVINO's conversion changes the root's
    levels = [logger.level for logger in restored]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(restored, levels, strict=True):
            logger.setLevel(level)
