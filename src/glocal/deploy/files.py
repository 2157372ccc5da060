"""Write a model as one file for a runtime, and compare the file with the model."""

import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from glocal.data.preprocessing import Preprocessing
from glocal.deploy import runtimes
from glocal.deploy.config import ENDINGS, PRECISIONS
from glocal.deploy.graph import axes_of, device_of, measuring, some_sizes, takes_sizes, trace
from glocal.deploy.preprocessing_graph import PreprocessingGraph
from glocal.errors import InvalidValueError, WorkError
from glocal.tasks.loading import check_finite
from glocal.wording import one_line

# The largest difference from PyTorch, in standard deviations of PyTorch's own results.
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-2, "int8": 2.5}  # unrelated results differ by 4 and more
IMAGES_COMPARED = 64  # of the images for calibration
TOLERANCE_OF_LEVELS = 1e-2  # with preprocessing in the file, which rounds some pixels to another level of 255
# Of a model that decides by signs: how many times the difference of the typical image the others may have, in all but
# this part of their values; and on how many images it is compared at least (docs/decisions/rounded-decisions.md).
FLIPPED, FLIPPED_PART, IMAGES_OF_DECISIONS = 100.0, 0.05, 8
COARSE = (4, 16, 64)  # pixels of the patches in images for models that find objects: they see none in fine noise
METADATA_KEY = "glocal"
INPUTS = ["images", "sizes"]
Comparison = Callable[[Sequence[Sequence[Tensor]], Sequence[Sequence[Tensor]]], float]  # of expected and found results


@dataclass(frozen=True)
class ExportResult:
    """A file that was written and checked.

    difference: the largest difference from PyTorch in all comparisons, in standard deviations of PyTorch's results; for
        a model that decides by signs, that of the typical image (see `difference`).
    compared: the shapes (B, C, H, W) of the comparisons.
    inputs: the names of the inputs. open_axes: what may differ from call to call.
    """

    path: Path
    difference: float
    compared: list[tuple[int, ...]]
    megabytes: float
    seconds: float
    inputs: list[str]
    open_axes: tuple[str, ...]


class ExportMismatchError(WorkError):
    """The file computes something else than the model, and is not kept."""


def export(
    model: nn.Module,
    path: str | Path,
    to: str | None = None,
    dynamic: Collection[str] | None = None,
    precision: str = "fp32",
    input_size: tuple[int, int, int] = (3, 224, 224),
    batch: int = 1,
    metadata: dict | None = None,
    preprocessing: Preprocessing | None = None,
    calibration: Sequence[np.ndarray] | np.ndarray | None = None,
    output_names: Sequence[str] | None = None,
) -> ExportResult:
    """Write a model as a file for a runtime, read it back, and compare it with the model.

    Args:
        model: takes (B, C, H, W) and returns a tensor or a list of maps; any timm model, also with features_only. If it
            takes the sizes of images (see `Task.outputs`), so does the file, as a second input: `sizes`.
        path: the file; .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (torch.export).
        to: "onnx", "openvino" or "torch"; by default, from the path's ending.
        dynamic: what may differ from call to call: "batch", "size", both or nothing; None: both, or the size alone for
            a model that takes sizes.
        precision: "fp32", "fp16" for weights of half the size, or "int8" for integer weights and maps.
        input_size, batch: (C, H, W) and B, for the axes that are not dynamic.
        metadata: written to the file under "glocal", as JSON.
        preprocessing: becomes a part of the file, which then takes RGB images of any size, uint8 (B, H, W, 3); its
            input_size replaces `input_size`.
        calibration: float32 (B, C, H, W), a few hundred normalised images that are similar to those in use, as an array
            or as batches; int8 takes the ranges of all maps from them, and the file is compared on the first images.
        output_names: names of the tensors that the model returns; by default logits, embedding or features_0, …
            according to their shapes.

    Raises:
        ValueError: the target or precision is unknown, or torch.export or the runtime does not take the model.
        ImportError: the runtime is not installed.
        ExportMismatchError: the file differs too much from the model. It is deleted; an older file of that name stays.
    """
    start = time.perf_counter()
    path = Path(path)
    to = to or next((target for target, ending in ENDINGS.items() if path.suffix == ending), None)
    if to not in ENDINGS:
        raise InvalidValueError(
            f"the file must end with one of {', '.join(ENDINGS.values())}, or say which of them it is"
        )
    if precision not in PRECISIONS:
        raise InvalidValueError(f"the precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if path.suffix != ENDINGS[to]:
        raise InvalidValueError(f"a file for {to} ends with {ENDINGS[to]}, not {path.suffix or 'nothing'}")
    if (precision == "int8") != (calibration is not None and len(calibration) > 0):
        raise InvalidValueError("int8 needs images for calibration, other precisions none")
    if isinstance(calibration, np.ndarray) and calibration.ndim == 4:
        calibration = [*calibration[:, None]]
    runtimes.require(to)
    if precision == "int8":
        runtimes.require("int8")
    dynamic, raw = axes_of(model, dynamic), preprocessing is not None
    if raw:
        if precision == "int8":
            raise InvalidValueError("a file with its preprocessing is not int8")
        if "size" not in dynamic:
            raise InvalidValueError(
                "a file with its preprocessing takes images of any size: dynamic must leave it open"
            )
        model, input_size = nn.Sequential(PreprocessingGraph(preprocessing), model), preprocessing.input_size
        model[0].to(device_of(model))
    program = trace(model, input_size, batch, dynamic, raw)
    classifies = getattr(model[-1] if raw else model, "num_classes", None) != 0
    outputs = list(output_names or _output_names(program, classifies))
    write = {"onnx": _write_onnx, "openvino": _write_openvino, "torch": _write_torch}[to]
    with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        write(program, written, outputs, precision, json.dumps(metadata or {}, ensure_ascii=False), calibration)
        if calibration is not None:
            batches = [torch.from_numpy(images) for images in calibration[: max(1, IMAGES_COMPARED // batch)]]
        else:
            shapes = _shapes(input_size, batch, dynamic)
            if decides(model):
                shapes *= math.ceil(IMAGES_OF_DECISIONS / sum(shape[0] for shape in shapes))
            batches = list(images_for(model, shapes, raw))
        difference = compare(model, runtimes.load(written), batches)
        if to == "openvino" and dynamic:  # OpenVINO computes another graph if it knows the size
            known = runtimes.openvino(written, tuple(batches[0].shape))
            same = [images for images in batches if images.shape == batches[0].shape]
            difference = max(difference, compare(model, known, same if decides(model) else same[:1]))
        tolerance = max(TOLERANCES[precision], TOLERANCE_OF_LEVELS if raw else 0.0)
        if not difference <= tolerance:
            raise ExportMismatchError(
                f"the file for {to} computes something else than PyTorch: a difference of {difference:.1e} standard "
                f"deviations, more than {tolerance:.0e}; it was not kept"
            )
        files = sorted(Path(folder).iterdir(), key=lambda file: file.suffix == path.suffix)  # the file itself last
        size = sum(file.stat().st_size for file in files) / 1e6
        if len(files) > 1:
            path.unlink(missing_ok=True)  # never an old graph beside new weights
        for file in files:
            os.replace(file, path.with_name(file.name))
    shapes = list(dict.fromkeys(tuple(images.shape) for images in batches))
    inputs = INPUTS[: len(program.graph_signature.user_inputs)]
    return ExportResult(path, difference, shapes, size, time.perf_counter() - start, inputs, dynamic)


def files_of(path: Path) -> list[Path]:
    """All files that an export to `path` writes."""
    return [path, path.with_suffix(".bin")] if path.suffix == ENDINGS["openvino"] else [path]


def random_images(shapes: list[tuple[int, ...]], raw: bool = False) -> Iterable[Tensor]:
    """Random images of shapes (B, C, H, W), always the same; raw: uint8 (B, H, W, C)."""
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        images = torch.randn(shape, generator=generator)
        yield (64 * images + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous() if raw else images


def images_for(model: nn.Module, shapes: list[tuple[int, ...]], raw: bool = False) -> Iterable[Tensor]:
    """The images of shapes (B, C, H, W) on which a model is compared."""
    return coarse_images(shapes) if takes_sizes(model) else random_images(shapes, raw)


def coarse_images(shapes: list[tuple[int, ...]]) -> Iterable[Tensor]:
    """Random images of shapes (B, C, H, W) with patches of several sizes, always the same."""
    generator = torch.Generator().manual_seed(0)
    for count, channels, height, width in shapes:
        images = 0.5 * torch.randn(count, channels, height, width, generator=generator)
        for step in COARSE:
            sides = (-(-height // step), -(-width // step))
            patches = torch.randn(count, channels, *sides, generator=generator)
            images += nn.functional.interpolate(patches, scale_factor=step)[..., :height, :width]
        yield images


def compare(model: nn.Module, other: runtimes.Run, batches: Iterable[Tensor]) -> float:
    """The difference of two models on batches of images; see `difference`.

    Raises ExportMismatchError if the second model fails, RuntimeError if the first result is not finite.
    """
    return Results.of(model, list(batches)).difference(other)


@dataclass(frozen=True)
class Results:
    """What a model gives for some batches of images. is_list: whether it gives a list of tensors."""

    model: nn.Module
    batches: list[Tensor]
    values: list[list[Tensor]]
    is_list: bool

    @classmethod
    def of(cls, model: nn.Module, batches: list[Tensor]) -> "Results":
        device = device_of(model)
        with measuring(model), torch.no_grad():
            results = [model(*(one.to(device) for one in inputs_of(model, images))) for images in batches]
        values = [[tensor.cpu() for tensor in runtimes.as_list(result)] for result in results]
        return cls(model, batches, values, not isinstance(results[0], Tensor))

    def difference(self, other: runtimes.Run) -> float:
        """The difference of another model from these results; see `difference`."""

        def run(images: np.ndarray) -> Sequence[np.ndarray]:
            return other(*map(np.asarray, inputs_of(self.model, torch.from_numpy(images))))

        own = self.model.difference if takes_sizes(self.model) else None
        return difference(self.values, run, self.batches, decides(self.model), own)


def inputs_of(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """What a model gets with images in a comparison: if it takes sizes, those of `some_sizes`."""
    return (images, some_sizes(images)) if takes_sizes(model) else (images,)


def decides(model: nn.Module) -> bool:
    """Whether a part of a model says that it decides by signs: then rounding changes some results by far more."""
    return any(getattr(module, "decides_by_signs", False) for module in model.modules())


def difference(
    expected: Sequence[Sequence[Tensor]],
    other: Callable[[np.ndarray], Sequence[np.ndarray]],
    batches: Sequence[Tensor],
    decides: bool = False,
    comparison: Comparison | None = None,
) -> float:
    """The largest difference of a model from results, in standard deviations of these.

    expected: the results for each batch. other: the model. decides: whether the results come from decisions by signs.
    Then it is the largest difference of the typical image, the median of all; or, if this is more, a hundredth of the
    largest difference of any image without a twentieth of its values. comparison: computes the difference instead.

    Infinite if the shapes differ or the model's result is not finite.
    """
    pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in expected[0]]  # for every output: the results of all batches
    found = []
    for ours, images in zip(expected, batches, strict=True):
        try:
            theirs = [torch.from_numpy(np.asarray(array)).double() for array in other(images.numpy())]
        except Exception as error:  # the runtimes raise types of their own
            size = "×".join(map(str, images.shape))
            raise ExportMismatchError(
                f"the file does not take images of {size}: {one_line(error, first_only=True)}"
            ) from error
        if comparison is not None:
            found.append(theirs)
            continue
        if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
            return math.inf
        for pair, *new in zip(pairs, ours, theirs, strict=True):
            pair.append((new[0].double(), new[1]))
    return comparison(expected, found) if comparison else max(_difference(pair, decides) for pair in pairs)


def _difference(pairs: Sequence[tuple[Tensor, Tensor]], decides: bool) -> float:
    """The difference of one output. pairs: expected and found, of all batches."""
    ours = torch.cat([expected.flatten() for expected, _ in pairs])
    check_finite(ours)
    # At least a thousandth of the largest result, in case all results are nearly equal.
    scale = max(float(ours.std(correction=0)), 1e-3 * float(ours.abs().max()), 1e-30)
    errors = [(found - expected).abs() / scale for expected, found in pairs]
    if not all(bool(error.isfinite().all()) for error in errors):
        return math.inf
    if not decides:
        return max(float(error.max()) for error in errors)
    images = [image.flatten().sort().values for error in errors for image in error]
    typical = torch.stack([image[-1] for image in images]).median()
    most = max(float(image[math.ceil((1 - FLIPPED_PART) * len(image)) - 1]) for image in images)
    return max(float(typical), most / FLIPPED)


def _shapes(input_size: tuple[int, int, int], batch: int, dynamic: Collection[str]) -> list[tuple[int, ...]]:
    """Shapes with two batch sizes and two image sizes, if these are open; the second size is odd and no square."""
    channels, height, width = input_size
    sizes = [(height, width)] + ([(height // 2 + 33, width // 2 + 66)] if "size" in dynamic else [])
    batches = (1, 3) if "batch" in dynamic else (batch,)
    return [(count, channels, *size) for count in batches for size in sizes]


def _write_onnx(program, path: Path, outputs: list[str], precision: str, metadata: str, calibration) -> None:
    result = _onnx_of(program, outputs)
    images = result.model.graph.inputs[0]
    axes = ("batch", "height", "width", "") if images.dtype.name == "UINT8" else ("batch", "", "height", "width")
    found = zip(images.shape, axes, strict=True)
    result.rename_axes(
        {side: name for side, name in found if not isinstance(side, int)}
    )  # also in the shapes that depend on them
    result.model.metadata_props[METADATA_KEY] = metadata
    result.model.producer_name = METADATA_KEY
    if precision != "fp32":
        import onnx
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        with runtimes.quiet():
            onnx.save(convert_float_to_float16(result.model_proto, keep_io_types=True), path)
    elif precision == "int8":
        onnx.save(_quantized(result.model_proto, calibration), path)
    else:
        result.save(path, external_data=False)


def _onnx_of(program, outputs: list[str]) -> torch.onnx.ONNXProgram:
    try:
        with runtimes.quiet():
            names = {"input_names": INPUTS[: len(program.graph_signature.user_inputs)], "output_names": outputs}
            return torch.onnx.export(program, dynamo=True, verbose=False, optimize=True, **names)
    except torch.onnx.OnnxExporterError as error:
        raise InvalidValueError(f"ONNX does not take this model: {_reason(error)}") from error


def _write_openvino(program, path: Path, outputs: list[str], precision: str, metadata: str, calibration) -> None:
    import openvino

    suppresses = any(node.target is torch.ops.torchvision.nms.default for node in program.graph.nodes)
    source = program
    if suppresses:  # OpenVINO reads this operation in files of ONNX, and not in torch.export's graphs
        runtimes.require("onnx")
        source = path.with_suffix(".onnx")
        _onnx_of(program, outputs).save(source, external_data=False)
    try:
        with runtimes.quiet():
            graph = openvino.convert_model(source)
    except Exception as error:  # its types have no common base
        raise InvalidValueError(f"OpenVINO does not take this model: {_reason(error)}") from error
    if suppresses:
        source.unlink()
    images = next(node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    sides = images.meta["val"].shape
    graph.reshape(
        {graph.inputs[0]: openvino.PartialShape([side if isinstance(side, int) else -1 for side in sides])}
    )  # otherwise all sides are open
    for given, name in zip(graph.inputs, INPUTS[: len(graph.inputs)], strict=True):
        given.get_tensor().set_names({name})
    for output, name in zip(graph.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    if precision == "int8":
        graph = _quantized(graph, calibration)
    graph.set_rt_info(metadata, METADATA_KEY)
    openvino.save_model(graph, path, compress_to_fp16=precision == "fp16")


def _output_names(program, classifies: bool) -> list[str]:
    """The names of a graph's outputs, by their axes: a vector per image has two axes, a map has more."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    axes = [values[name].ndim for name in program.graph_signature.user_outputs]
    if axes == [2]:
        return ["logits" if classifies else "embedding"]
    if axes == [2, 2]:
        return ["logits", "embedding"]
    return [f"features_{place}" for place in range(len(axes))]


def _reason(error: Exception) -> str:
    """The line of a converter's report that names the operation; without one, the first line."""
    lines = str(error).splitlines()
    named = (line.strip("- ") for line in lines if line.startswith(("-- No conversion rule", "<class 'torch.onnx")))
    return next(named, one_line(error, first_only=True)).rpartition("'>: ")[2]


def _quantized(graph, calibration: Sequence[np.ndarray]):
    import nncf

    images = nncf.Dataset(calibration, lambda batch: {"images": batch})
    attention = nncf.IgnoredScope(types=["ScaledDotProductAttention"], validate=False)  # OpenVINO computes it wrongly
    options = {"model_type": nncf.ModelType.TRANSFORMER, "ignored_scope": attention}
    with runtimes.quiet():
        return nncf.quantize(graph, images, subset_size=len(calibration), **options)


def _write_torch(program, path: Path, outputs: list[str], precision: str, metadata: str, calibration) -> None:
    if precision != "fp32":
        raise InvalidValueError(f"a file for torch is fp32, not {precision}")
    torch.export.save(program, path, extra_files={METADATA_KEY: metadata})
