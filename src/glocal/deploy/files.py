"""Write a model as one file for a runtime, and compare the file with the model."""

import json
import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from glocal.deploy import runtimes
from glocal.deploy.config import ENDINGS, PRECISIONS
from glocal.deploy.graph import DYNAMIC, device_of, first_line, measuring, trace

# The largest difference from PyTorch, in standard deviations of PyTorch's own results.
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-2}
METADATA_KEY = "glocal"


@dataclass(frozen=True)
class ExportResult:
    """A file that was written and checked.

    difference: the largest one from PyTorch, over all sizes and batches that were compared, in standard deviations of
    PyTorch's results. compared: the (B, C, H, W) that were.
    """

    path: Path
    difference: float
    compared: list[tuple[int, ...]]
    megabytes: float
    seconds: float


class ExportMismatchError(RuntimeError):
    """A file that does not compute what the model does; it is not kept."""


def export(
    model: nn.Module,
    path: str | Path,
    to: str | None = None,
    dynamic: Collection[str] = DYNAMIC,
    precision: str = "fp32",
    input_size: tuple[int, int, int] = (3, 224, 224),
    batch: int = 1,
    metadata: dict | None = None,
) -> ExportResult:
    """Write a model as a file for a runtime, read it back, and compare it with the model.

    Args:
        model: takes (B, C, H, W) and returns a tensor or a list of maps; of any family, or features_only.
        path: the file; .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (torch.export).
        to: "onnx", "openvino" or "torch"; by default as the path's ending says.
        dynamic: what may differ from call to call: "batch", "size", both or nothing.
        precision: "fp32", or "fp16" for weights of half the size.
        input_size, batch: (C, H, W) and B where they are not dynamic.
        metadata: to be found in the file under "glocal", as JSON.

    Raises:
        ValueError: an unknown target or precision, or a model that torch.export does not take.
        ImportError: a runtime that is not installed.
        ExportMismatchError: the file computes something else. It is deleted; a file of that name from before stays.
    """
    start = time.perf_counter()
    path = Path(path)
    to = to or next((target for target, ending in ENDINGS.items() if path.suffix == ending), None)
    if to not in ENDINGS:
        raise ValueError(f"the file must end with one of {', '.join(ENDINGS.values())}, or say which of them it is")
    if precision not in PRECISIONS:
        raise ValueError(f"the precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if path.suffix != ENDINGS[to]:
        raise ValueError(f"a file for {to} ends with {ENDINGS[to]}, not {path.suffix or 'nothing'}")
    runtimes.require(to)
    program = trace(model, input_size, batch, dynamic)
    write = {"onnx": _write_onnx, "openvino": _write_openvino, "torch": _write_torch}[to]
    with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        write(program, written, precision, json.dumps(metadata or {}, ensure_ascii=False))
        shapes = _shapes(input_size, batch, dynamic)
        difference = compare(model, runtimes.load(written), shapes)
        if not difference <= TOLERANCES[precision]:
            raise ExportMismatchError(
                f"the file for {to} computes something else than PyTorch: a difference of {difference:.1e} standard "
                f"deviations, more than {TOLERANCES[precision]:.0e}; it was not kept"
            )
        files = sorted(Path(folder).iterdir(), key=lambda file: file.suffix == path.suffix)  # the file itself last
        size = sum(file.stat().st_size for file in files) / 1e6
        if len(files) > 1:
            path.unlink(missing_ok=True)  # never an old graph beside new weights
        for file in files:
            os.replace(file, path.with_name(file.name))
    return ExportResult(path, difference, shapes, size, time.perf_counter() - start)


def files_of(path: Path) -> list[Path]:
    """All files that an export to `path` writes."""
    return [path, path.with_suffix(".bin")] if path.suffix == ENDINGS["openvino"] else [path]


def compare(model: nn.Module, other: Callable[[np.ndarray], Sequence[np.ndarray]], shapes: list) -> float:
    """The largest difference of two models on random images, in standard deviations of the first one's results.

    Infinite for results of other shapes or without finite values. Raises ExportMismatchError where the second fails,
    RuntimeError where the first gives no finite values.
    """
    generator = torch.Generator().manual_seed(0)
    device = device_of(model)
    pairs: list[list[tuple[Tensor, Tensor]]] = []  # of every output, over the shapes
    with measuring(model), torch.no_grad():
        for shape in shapes:
            images = torch.randn(shape, generator=generator)
            ours = [tensor.cpu().double() for tensor in runtimes.as_list(model(images.to(device)))]
            try:
                theirs = [torch.from_numpy(np.asarray(array)).double() for array in other(images.numpy())]
            except Exception as error:  # the runtimes raise types of their own
                size = "×".join(map(str, shape))
                raise ExportMismatchError(f"the file does not take images of {size}: {first_line(error)}") from error
            if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
                return math.inf
            pairs = pairs or [[] for _ in ours]
            for pair, *new in zip(pairs, ours, theirs, strict=True):
                pair.append(tuple(new))
    return max(_difference(*map(_joined, zip(*pair, strict=True))) for pair in pairs)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if not ours.isfinite().all():
        raise RuntimeError("the model gives non-finite values (nan or inf): its weights are damaged or diverged")
    # At least a thousandth of the largest, where all results are nearly the same.
    scale = max(float(ours.std(correction=0)), 1e-3 * float(ours.abs().max()), 1e-30)
    difference = float((theirs - ours).abs().max()) / scale
    return math.inf if math.isnan(difference) else difference


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _shapes(input_size: tuple[int, int, int], batch: int, dynamic: Collection[str]) -> list[tuple[int, ...]]:
    """Two batches and two sizes, so far as they are open; the second size is odd and no square."""
    channels, height, width = input_size
    sizes = [(height, width)] + ([(height // 2 + 33, width // 2 + 66)] if "size" in dynamic else [])
    batches = (1, 3) if "batch" in dynamic else (batch,)
    return [(count, channels, *size) for count in batches for size in sizes]


def _write_onnx(program, path: Path, precision: str, metadata: str) -> None:
    with runtimes.quiet():
        result = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["images"], optimize=True)
    graph = result.model.graph
    for place, name in enumerate(("batch", None, "height", "width")):
        if name is not None and not isinstance(graph.inputs[0].shape[place], int):
            graph.inputs[0].shape[place] = name
    result.model.metadata_props[METADATA_KEY] = metadata
    result.model.producer_name = METADATA_KEY
    if precision == "fp16":
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        with runtimes.quiet():
            onnx.save(convert_float_to_float16(result.model_proto, keep_io_types=True), path)
        return
    result.save(path, external_data=False)


def _write_openvino(program, path: Path, precision: str, metadata: str) -> None:
    import openvino

    with runtimes.quiet():
        graph = openvino.convert_model(program)
    images = next(node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    sides = images.meta["val"].shape
    graph.reshape(openvino.PartialShape([side if isinstance(side, int) else -1 for side in sides]))  # else all are open
    graph.inputs[0].get_tensor().set_names({"images"})
    graph.set_rt_info(metadata, METADATA_KEY)
    openvino.save_model(graph, path, compress_to_fp16=precision == "fp16")


def _write_torch(program, path: Path, precision: str, metadata: str) -> None:
    if precision != "fp32":
        raise ValueError("a file for torch is fp32")
    torch.export.save(program, path, extra_files={METADATA_KEY: metadata})
