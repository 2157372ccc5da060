"""A model compiled for one runtime: images in, logits or maps out."""

import hashlib
import inspect
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from glocal.deploy import runtimes
from glocal.deploy.config import ENDINGS, ENGINES
from glocal.deploy.files import IMAGES_OF_DECISIONS, ExportMismatchError, Results, decides, export, images_for
from glocal.deploy.files import TOLERANCES as TOLERANCES_OF_FILES
from glocal.deploy.graph import takes_sizes
from glocal.deploy.record import write_openvino
from glocal.deploy.reparameterize import fuse
from glocal.device import torch_threads
from glocal.errors import InvalidValueError
from glocal.wording import one_line

log = logging.getLogger(__name__)

Images = np.ndarray | Tensor
Run = runtimes.Run
COMPILED_KEPT = 8  # compiled models that stay in memory, by size and purpose
FORMATS = {"openvino": "openvino", "onnxruntime": "onnx"}  # engine → the target of `export` that it reads
# The largest difference of a cached model from the present model, in standard deviations of the results.
TOLERANCES = {"fp32": 1e-3, "bf16": 1.0}
# Seconds of compiling per module of a network; 8 to 16 ms if a run is recorded (docs/performance.md).
SECONDS_RECORDED, SECONDS_EXPORTED = 0.01, 0.08


class Engine:
    """A compiled model: normalised float32 images (B, C, H, W) to (B, classes), or to a list of outputs.

    Arrays give arrays, tensors give tensors on the CPU. A lock lets one thread compute at a time. name: the runtime's.
    A model that takes sizes gets them as a second argument (`Task.outputs`).
    """

    def __init__(self, name: str, run: Run, is_list: bool, input_size: tuple[int, int, int] | None):
        self.name = name
        self._run = run
        self._is_list = is_list
        self._input_size = input_size
        self._lock = Lock()

    def __call__(self, images: Images, sizes: Images | None = None) -> Images | list[Images]:
        array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
        if array.ndim != 4 or not len(array):
            raise ValueError(f"images must be (B, C, H, W) with B of at least 1, got shape {array.shape}")
        if self._input_size is not None and array.shape[1:] != self._input_size:
            raise ValueError(f"the model is compiled for images of {self._input_size}, got {array.shape[1:]}")
        more = () if sizes is None else (np.asarray(sizes),)
        with self._lock:
            results = self._run(np.ascontiguousarray(array, dtype=np.float32), *more)
        if isinstance(images, Tensor):
            results = [torch.from_numpy(result) for result in results]
        return results if self._is_list else results[0]


def compile(
    model: nn.Module,
    engine: str = "auto",
    input_size: tuple[int, int, int] | None = None,
    threads: int | None = None,
    precision: str = "fp32",
) -> Engine:
    """Compile a model for a runtime on the CPU.

    The compiled model is kept in `cache_folder()` under a hash of the model. When it is loaded again, it is compared
    with the model on an image.

    Args:
        model: takes (B, C, H, W) and returns a tensor or a list of tensors.
        engine: "openvino", "onnxruntime" or "torch"; "auto" uses the first of them that is installed, and torch if this
            engine does not take the model, or if the model takes sizes.
        input_size: (C, H, W), for images of this size only, which compiles faster; None for any size.
        threads: cores to use; by default all.
        precision: "fp32", or "bf16", with which some processors are faster (OpenVINO).

    Raises ImportError if the engine is not installed, ValueError if it does not take the model, OSError if the cache
    cannot be written.
    """
    name = choose_for(model) if engine == "auto" else choose(engine)
    if precision not in ("fp32", "bf16") or (precision == "bf16" and name != "openvino"):
        raise InvalidValueError(
            f"{name} computes in fp32{' or bf16' if name == 'openvino' else ''}, not in {precision!r}"
        )
    sample = _sample(model, input_size)
    if name != "torch":
        try:
            run = _load(model, name, input_size, threads, precision, sample)
            if takes_sizes(model):
                run = _one_by_one(model, run)
            return Engine(name, run, sample.is_list, input_size)
        except (ValueError, OSError, ExportMismatchError) as error:
            if engine != "auto":
                raise
            log.warning("%s does not take the model, torch computes it: %s", name, one_line(error, first_only=True))
    return Engine("torch", _torch(model, threads), sample.is_list, input_size)


def _sample(model: nn.Module, input_size: tuple[int, int, int] | None) -> Results:
    """Some images and the model's results for them. If the model takes any size, a small image is enough."""
    shape = 1, *(input_size or (_channels(model), 64, 64))
    return Results.of(model, list(images_for(model, [shape] * (IMAGES_OF_DECISIONS if decides(model) else 1))))


def choose(engine: str) -> str:
    """The engine to use: for "auto", OpenVINO if it is installed, else ONNX Runtime, else torch.

    Raises ValueError for an unknown engine, ImportError if the engine is not installed.
    """
    if engine not in ENGINES:
        raise InvalidValueError(f"the engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine in FORMATS:
        runtimes.require(FORMATS[engine])
    if engine != "auto":
        return engine
    for name, target in FORMATS.items():
        if all(find_spec(package) is not None for package in runtimes.PACKAGES[target]):
            return name
    return "torch"


def choose_for(model: nn.Module) -> str:
    """The engine that "auto" means for a model; torch if it takes the sizes of images."""
    return "torch" if takes_sizes(model) else choose("auto")


def cache_folder() -> Path:
    """The folder of compiled models, which nothing deletes: GLOCAL_CACHE, or glocal in the user's cache folder."""
    if "GLOCAL_CACHE" in os.environ:
        return Path(os.environ["GLOCAL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glocal"


def cached_file(model: nn.Module, name: str, input_size: tuple[int, int, int] | None) -> Path:
    """The file in the cache for a compiled model, whether it exists or not."""
    packages = runtimes.PACKAGES[FORMATS[name]]
    versions = [import_module(package).__version__ for package in packages]
    return cache_folder() / content_key(model, name, str(input_size), *versions) / f"model{ENDINGS[FORMATS[name]]}"


def seconds_to_compile(model: nn.Module, name: str, input_size: tuple[int, int, int] | None) -> float:
    """About how long a compilation takes if the cache does not have the model."""
    modules = sum(1 for _ in model.modules())
    return modules * (SECONDS_RECORDED if _is_recorded(model, name, input_size) else SECONDS_EXPORTED)


def _is_recorded(model: nn.Module, name: str, input_size: tuple[int, int, int] | None) -> bool:
    return name == "openvino" and input_size is not None and not takes_sizes(model)


def _load(model: nn.Module, name: str, input_size, threads: int | None, precision: str, sample: Results) -> Run:
    """The engine's function for the model, from the cache if possible."""
    file = cached_file(model, name, input_size)
    folder = file.parent
    opened = partial(_open, model, file, name, threads, precision, keep=input_size is not None)
    if file.exists():
        try:
            run = opened()
            if sample.difference(run) <= TOLERANCES[precision]:
                return run
        except Exception as error:  # a damaged file; the runtimes raise types of their own
            log.info("%s cannot be used: %s", file, one_line(error, first_only=True))
        shutil.rmtree(folder)  # damaged, or of another model: a module may hold values that the key does not cover
    log.warning(
        "compiling the model for %s, which takes about %.0f s and is kept in %s for the next time; "
        '--engine torch (engine="torch") does without',
        name,
        max(1, seconds_to_compile(model, name, input_size)),
        folder.parent,
    )
    if _is_recorded(model, name, input_size):
        try:
            _fill(folder, partial(write_openvino, model, input_size=input_size), file.name)
            run = opened()
            checked = run if precision == "fp32" else runtimes.openvino(file)
            if sample.difference(checked) <= TOLERANCES_OF_FILES["fp32"]:
                return run
            reason = "the graph differs from the model"
        except Exception as error:  # torch and the runtime raise types of their own
            reason = one_line(error, first_only=True)
        shutil.rmtree(folder, ignore_errors=True)
        seconds = seconds_to_compile(model, name, None)
        log.warning("the quick way fails (%s), torch.export takes about %.0f s", reason, max(1, seconds))
    # OpenVINO computes a batch faster image by image, an image per core; per-sample kernels need that too.
    dynamic = ("size",) if name == "openvino" or takes_sizes(model) else ("batch", "size")
    dynamic = tuple(axis for axis in dynamic if axis != "size" or input_size is None)
    size = input_size or (_channels(model), 224, 224)
    _fill(folder, lambda path: export(model, path, dynamic=dynamic, input_size=size), file.name)
    return opened()


def _open(model: nn.Module, file: Path, name: str, threads: int | None, precision: str, keep: bool) -> Run:
    if name == "openvino" and takes_sizes(model):
        # Images with objects have many sizes: to compile the graph for each would take longer than to compute them.
        return runtimes.openvino(file, threads=threads, precision="f32" if precision == "fp32" else precision)
    if name == "openvino":
        return OpenVINO(file, threads, precision, keep)
    return runtimes.onnx(file, threads)


def _one_by_one(model: nn.Module, run: Run) -> Run:
    """The function of a file that takes an image at a time, for batches. model: of the file; joins the results."""

    def compute(images: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
        if sizes is None:
            sizes = np.array([images.shape[2:]] * len(images))
        parts = [run(images[i : i + 1], sizes[i : i + 1]) for i in range(len(images))]
        return [tensor.numpy() for tensor in model.joined([list(map(torch.from_numpy, part)) for part in parts])]

    return compute


def _fill(folder: Path, write: Callable[[Path], object], file_name: str) -> None:
    """Write a model into a new folder, which appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        write(new / file_name)
        try:
            os.rename(new, folder)
        except OSError:
            if not (folder / file_name).exists():  # otherwise another process was faster
                raise


def content_key(model: nn.Module, *more: str) -> str:
    """Hash of all that decides what a model computes: weights, buffers, modules, their settings, code, and `more`."""
    digest = hashlib.sha256()

    def note(*values) -> None:
        digest.update(f"{values}\n".encode())

    note(*more, _code_of_glocal(), *(version(package) for package in ("timm", "torch")))
    for name, module in model.named_modules():
        kind = type(module)
        settings = sorted((key, _described(value)) for key, value in vars(module).items() if key not in _STRUCTURE)
        note(name, kind.__module__, kind.__qualname__, _code_of(kind), settings)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        note(name, tuple(tensor.shape), tensor.dtype)
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


# Attributes of a module that are hashed separately, or that change no result.
_STRUCTURE = ("_modules", "_parameters", "_buffers", "training")


def _described(value) -> str:
    if isinstance(value, Tensor):
        return hashlib.sha256(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, partial):
        return _described([value.func, value.args, value.keywords])
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__qualname__ + _described(vars(value))
    if isinstance(value, dict):
        return str(sorted((str(key), _described(entry)) for key, entry in value.items()))
    if isinstance(value, list | tuple | set | frozenset):
        return str([_described(entry) for entry in value])
    if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.device):
        return repr(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


@cache
def _code_of_glocal() -> str:
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _code_of(kind: type) -> str:
    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def _channels(model: nn.Module) -> int:
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            return part.in_channels
    raise InvalidValueError("the model has no convolution that says how many channels an image has: give input_size")


class OpenVINO:
    """Computes an image at a time on all cores, or several images at a time on a core each.

    keep: save the model that is compiled for a size beside the file, for the next start.
    """

    def __init__(self, path: Path, threads: int | None, precision: str, keep: bool):
        self.threads = ThreadPoolExecutor(os.cpu_count(), "glocal-openvino")
        self.graph = runtimes.openvino_core().read_model(path)
        self.settings = {"INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else precision}
        if threads is not None:
            self.settings["INFERENCE_NUM_THREADS"] = threads
        if keep:
            self.settings["CACHE_DIR"] = str(path.parent / "compiled")
        self.compiled: OrderedDict = OrderedDict()  # by (C, H, W) and the performance hint; the latest last

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        requests = self.compile(images.shape[1:], "LATENCY" if len(images) == 1 else "THROUGHPUT")
        parts: list = [None] * len(images)

        def work(first: int) -> None:
            for place in range(first, len(images), len(requests)):
                results = requests[first].infer([images[place : place + 1]])
                parts[place] = [result.copy() for result in results.values()]

        # Threads wait for their requests, because the runtime's own queue can wait for the interpreter for ever.
        list(self.threads.map(work, range(min(len(requests), len(images)))))
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def compile(self, shape: tuple[int, ...], hint: str) -> list:
        """Inference requests that run at the same time, for images of a size."""
        key = shape, hint
        if key not in self.compiled:
            graph = self.graph.clone()
            graph.reshape([1, *shape])
            settings = {**self.settings, "PERFORMANCE_HINT": hint}
            model = runtimes.openvino_core().compile_model(graph, "CPU", settings)
            count = 1 if hint == "LATENCY" else model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            self.compiled[key] = [model.create_infer_request() for _ in range(count)]
            if len(self.compiled) > COMPILED_KEPT:
                self.compiled.popitem(last=False)
        self.compiled.move_to_end(key)
        return self.compiled[key]


def _torch(model: nn.Module, threads: int | None) -> Run:
    fused = fuse(model).to("cpu", memory_format=torch.channels_last)

    def run(images: np.ndarray, *sizes: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode(), torch_threads(threads):
            more = map(torch.from_numpy, sizes)
            result = fused(torch.from_numpy(images).to(memory_format=torch.channels_last), *more)
        return [tensor.numpy() for tensor in runtimes.as_list(result)]

    return run
