"""A model compiled for one runtime: images in, logits or maps out."""

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glocal.deploy import runtimes
from glocal.deploy.config import ENGINES
from glocal.deploy.files import export
from glocal.deploy.reparameterize import fuse

log = logging.getLogger(__name__)

Images = np.ndarray | Tensor
SIZES_KEPT = 4  # compiled models of different sizes that stay in memory


class Engine:
    """A compiled model: float32 images (B, C, H, W), normalised, to (B, classes), or to a list for several outputs.

    Arrays give arrays, tensors give tensors on the CPU. name: of the runtime.
    """

    def __init__(self, name: str, run: Callable[[np.ndarray], list[np.ndarray]], several: bool):
        self.name = name
        self._run = run
        self._several = several

    def __call__(self, images: Images) -> Images | list[Images]:
        array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
        if array.ndim != 4 or not len(array):
            raise ValueError(f"images must be (B, C, H, W) with B of at least 1, got shape {array.shape}")
        results = self._run(np.ascontiguousarray(array, dtype=np.float32))
        if isinstance(images, Tensor):
            results = [torch.from_numpy(result) for result in results]
        return results if self._several else results[0]


def compile(
    model: nn.Module,
    engine: str = "auto",
    input_size: tuple[int, int, int] | None = None,
    threads: int | None = None,
    precision: str = "fp32",
) -> Engine:
    """Compile a model for a runtime on the CPU.

    What takes long is kept in `cache_folder()`, by the content of the model, for the next time.

    Args:
        model: takes (B, C, H, W) and returns a tensor or a list of them.
        engine: "openvino", "onnxruntime", "torch", or "auto", see `choose`.
        input_size: (C, H, W), for a model that takes images of this size only; None for any size.
        threads: cores to use; by default all.
        precision: "fp32", or "bf16" where the processor is faster with it (OpenVINO).

    Raises ImportError for an engine that is not installed, ValueError for a model that it does not take.
    """
    name = choose(engine)
    if precision not in ("fp32", "bf16") or (precision == "bf16" and name != "openvino"):
        raise ValueError(f"{name} computes in fp32{' or bf16' if name == 'openvino' else ''}, not in {precision!r}")
    model = model.eval()
    if name == "torch":
        return Engine(name, _torch(model, threads), _gives_several(model, input_size))
    runtimes.require({"openvino": "openvino", "onnxruntime": "onnx"}[name])
    # OpenVINO computes a batch faster image by image, on every core one; per-sample kernels need that too.
    dynamic = ("size",) if name == "openvino" else ("batch", "size")
    dynamic = tuple(axis for axis in dynamic if axis != "size" or input_size is None)
    path = _compiled_file(model, name, input_size, dynamic)
    run = _OpenVINO(path, threads, precision) if name == "openvino" else runtimes.load(path, threads)
    return Engine(name, run, _gives_several(model, input_size))


def choose(engine: str) -> str:
    """The engine that "auto" stands for: OpenVINO where it is installed, else ONNX Runtime, else torch."""
    if engine not in ENGINES:
        raise ValueError(f"the engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine != "auto":
        return engine
    for name, packages in (("openvino", runtimes.PACKAGES["openvino"]), ("onnxruntime", runtimes.PACKAGES["onnx"])):
        if all(find_spec(package) is not None for package in packages):
            return name
    return "torch"


def cache_folder() -> Path:
    """Where compiled models are kept: GLOCAL_CACHE, or glocal/ in the user's folder for caches."""
    if "GLOCAL_CACHE" in os.environ:
        return Path(os.environ["GLOCAL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glocal"


def _compiled_file(model: nn.Module, name: str, input_size, dynamic: tuple[str, ...]) -> Path:
    folder = cache_folder()
    key = content_key(model, name, str(input_size), version({"onnxruntime": "onnxruntime"}.get(name, name)))
    path = folder / f"{key}{'.xml' if name == 'openvino' else '.onnx'}"
    if not path.exists():
        log.warning("compiling the model for %s; it is kept in %s for the next time", name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        export(model, path, dynamic=dynamic, input_size=input_size or (_channels(model), 224, 224))
    return path


def content_key(model: nn.Module, *more: str) -> str:
    """Stands for what a model computes: its weights, its modules and their settings, and the versions of the code."""
    digest = hashlib.sha256()
    for text in (*more, *(version(package) for package in ("glocal", "timm", "torch"))):
        digest.update(f"{text}\n".encode())
    for name, module in model.named_modules():
        kind = type(module)
        settings = {key: value for key, value in vars(module).items() if _is_setting(value)}
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {sorted(settings.items())}\n".encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _is_setting(value) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _channels(model: nn.Module) -> int:
    return next(part.in_channels for part in model.modules() if isinstance(part, nn.Conv2d))


def _gives_several(model: nn.Module, input_size: tuple[int, int, int] | None) -> bool:
    device = next(model.parameters()).device
    with torch.no_grad():
        return not isinstance(model(torch.zeros(1, *(input_size or (_channels(model), 64, 64)), device=device)), Tensor)


class _OpenVINO:
    """One image at a time with all cores, or several at once with one core each."""

    def __init__(self, path: Path, threads: int | None, precision: str):
        import openvino

        self.queue = openvino.AsyncInferQueue
        self.core = openvino.Core()
        self.core.set_property({"CACHE_DIR": str(path.parent / "openvino")})
        self.graph = self.core.read_model(path)
        self.settings = {"INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else precision}
        if threads is not None:
            self.settings["INFERENCE_NUM_THREADS"] = threads
        self.compiled: OrderedDict = OrderedDict()  # by (C, H, W) and what it is made for, the latest last

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        if len(images) == 1:
            results = self.compile(images.shape[1:], "LATENCY")(images)
            return [result.copy() for result in results.values()]
        parts: list = [None] * len(images)

        def keep(request, place: int) -> None:
            parts[place] = [output.data.copy() for output in request.output_tensors]

        queue = self.queue(self.compile(images.shape[1:], "THROUGHPUT"))
        queue.set_callback(keep)
        for place in range(len(images)):
            queue.start_async([images[place : place + 1]], place)
        queue.wait_all()
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def compile(self, shape: tuple[int, ...], hint: str):
        key = shape, hint
        if key not in self.compiled:
            graph = self.graph.clone()
            graph.reshape([1, *shape])
            self.compiled[key] = self.core.compile_model(graph, "CPU", {**self.settings, "PERFORMANCE_HINT": hint})
            if len(self.compiled) > SIZES_KEPT:
                self.compiled.popitem(last=False)
        self.compiled.move_to_end(key)
        return self.compiled[key]


def _torch(model: nn.Module, threads: int | None) -> Callable[[np.ndarray], list[np.ndarray]]:
    fused = fuse(model).to("cpu", memory_format=torch.channels_last)

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode(), _threads(threads):
            result = fused(torch.from_numpy(images).to(memory_format=torch.channels_last))
        return [tensor.numpy() for tensor in ([result] if isinstance(result, Tensor) else result)]

    return run


@contextmanager
def _threads(count: int | None):
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
