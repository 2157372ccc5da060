"""Options of prediction, embedding, export and the service. Imports no torch."""

import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from glocal.errors import InvalidValueError
from glocal.options import RANGES, Range, check_numbers, option
from glocal.wording import shown

ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}  # of the files for each runtime
PRECISIONS = ("fp32", "fp16", "int8")
TABLES = (".csv", ".json", ".jsonl")  # endings of the files to which predictions are written
OTHER_TABLES = (".npy", ".npz", ".parquet", ".tsv", ".xlsx")  # endings that are refused with a hint
ENGINES = ("auto", "openvino", "onnxruntime", "torch")
HOST = re.compile(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*", re.ASCII)
KIND = re.compile(r"[a-z][a-z0-9_-]*")  # of files
ROOT_PATH = re.compile(r"(/[\w.~-]+)+", re.ASCII)


@dataclass(frozen=True)
class ImagesConfig:
    """Options that predictions and embeddings of images share.

    Args:
        images: image files, folders of them, videos, or glob patterns; with --output also WebDataset shards (.tar) and
            Parquet files, and folders of these
        checkpoint: a run folder or a .safetensors file of a run; with --model also a file of the authors' weights
        model: name of the model, where the checkpoint does not know it; without --checkpoint, its published weights
        batch_size: images per step (default: 32; less for tasks with large outputs)
        device: auto, cpu, cuda, cuda:1, mps, …
        engine: what computes on a CPU: openvino, onnxruntime or torch. The first two compile a model before its first
            use, and keep the result in a cache. auto uses the first of them that is installed, if the cache has the
            model or the images are many; else torch
        output: folder for the results as Parquet files; files of the same run in the folder are not computed again
        shard_size: image files per Parquet file
        image_column: column of Parquet files that holds the images
        every: of videos, take the first of every so many frames
        strict: treat a JPEG that lacks its last bytes as unreadable, instead of reading it with a note
        overwrite: begin anew in the output folder, or replace the output file
        ray: compute on a Ray cluster
        ray_address: address of the cluster (default: $RAY_ADDRESS, or a Ray that is started on this machine)
        workers: processes on the cluster (default: one per GPU; without GPUs, one per machine)
    """

    images: list[str]
    checkpoint: str | None = None
    model: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    engine: Literal["auto", "openvino", "onnxruntime", "torch"] = "auto"
    output: str | None = None
    shard_size: int = 10_000
    image_column: str = "image"
    every: int = 1
    strict: bool = False
    overwrite: bool = False
    ray: bool = False
    ray_address: str | None = None
    workers: int | None = None

    def __post_init__(self):
        check_numbers(self, workers=Range(1, most=RANGES["workers"].most))
        if self.checkpoint is None and self.model is None:
            raise InvalidValueError("give --checkpoint, or --model for a model's published weights")
        needs = {"ray": ("ray_address", "workers"), "output": ("shard_size", "image_column", "overwrite", "ray")}
        for needed, names in needs.items():
            for name in names:
                here = self._replaces if name == "overwrite" else getattr(self, needed)
                if getattr(self, name) != getattr(type(self), name) and not here:
                    raise InvalidValueError(f"{option(name)} needs {option(needed)}")
        if self.ray and ":" in self.device:
            raise InvalidValueError(f"--device {self.device}: with --ray every worker has a device of its own")
        if self._ending in OTHER_TABLES and not Path(self.output).is_dir():
            raise InvalidValueError(f"--output {self.output}: {self._outputs}")

    @property
    def _replaces(self) -> bool:
        """Whether anything is written that --overwrite could replace."""
        return self.output is not None

    @property
    def _ending(self) -> str:
        return "" if self.output is None else Path(self.output).suffix.lower()

    @property
    def _outputs(self) -> str:
        return "results are written into a folder, as Parquet files"


@dataclass(frozen=True)
class PredictConfig(ImagesConfig):
    """A prediction.

    Args:
        top_k: number of answers per image, for tasks that rank answers, such as the classes of classification
        pictures: folder for PNG files of the images with the results drawn on them; or, of a video, an .mp4 file
        tile: cut images whose longer side has more pixels into tiles of this side, compute each like an image of its
            own, and join the results; for tasks that give a result for every place, such as segmentation
        overlap: pixels that neighbouring tiles have in common (default: a quarter of --tile)
        save: KIND=PLACE, a further kind of files of the results; may be repeated. Segmentation has labels=FOLDER and
            ids=FOLDER (PNG files), coco=FILE.json, polygons=FILE.geojson, and for georeferenced images geotiff=FOLDER
            and geojson=FILE.geojson (default: none)
        overwrite: begin anew in the output folder, replace the output file, or what --save names
        output: a file for the results, .csv, .json or .jsonl; or a folder for Parquet files, where files of the same
            run are not computed again
    """

    REPEATED = ("save",)
    METAVARS: ClassVar = {"save": "KIND=PLACE"}

    top_k: int = 3
    pictures: str | None = None
    tile: int | None = None
    overlap: int | None = None
    save: list[str] = field(default_factory=list)

    @property
    def saved(self) -> dict[str, str]:
        """The places of --save by kind."""
        return {kind: place for kind, _, place in (text.partition("=") for text in self.save)}

    @property
    def _replaces(self) -> bool:
        return self.output is not None or bool(self.save) or (self.pictures or "").lower().endswith(".mp4")

    @property
    def to_table(self) -> bool:
        """Whether the output is one file."""
        return self._ending in TABLES

    @property
    def _outputs(self) -> str:
        return f"predictions are written to {', '.join(TABLES)}, or into a folder, as Parquet files"

    def __post_init__(self):
        super().__post_init__()
        if self.overlap is not None and (self.tile is None or self.overlap >= self.tile):
            raise InvalidValueError("--overlap needs a larger --tile")
        if self.tile is not None and self.output is not None and not self.to_table:
            raise InvalidValueError("--tile goes with results in the terminal or in one file, not with Parquet files")
        for name in ("ray", "shard_size"):
            if self.to_table and getattr(self, name) != getattr(type(self), name):
                raise InvalidValueError(f"{option(name)} is for an --output folder, not for the file {self.output}")
        for text in self.save:
            kind, _, place = text.partition("=")
            if not KIND.fullmatch(kind) or not place:
                raise InvalidValueError(f"--save must be KIND=PLACE, such as labels=masks, got {shown(text)}")
        if len(self.saved) < len(self.save):
            raise InvalidValueError("--save: each kind can be given once")
        for name in ("pictures", "save"):
            if getattr(self, name) and self.output is not None and not self.to_table:
                raise InvalidValueError(
                    f"{option(name)} goes with results in the terminal or in one file, not with Parquet files"
                )


@dataclass(frozen=True)
class EmbedConfig(ImagesConfig):
    """An embedding."""

    def __post_init__(self):
        super().__post_init__()
        if self.output is None:
            raise InvalidValueError("give --output, the folder for the embeddings")
        if self._ending in TABLES and not Path(self.output).is_dir():
            raise InvalidValueError(f"--output {self.output}: {self._outputs}")

    @property
    def _outputs(self) -> str:
        return "embeddings are written into a folder, as Parquet files, which pandas and pyarrow open as one table"


@dataclass(frozen=True)
class ExportConfig:
    """An export of a model to one file for a runtime.

    Args:
        to: onnx, openvino or torch (torch.export)
        model: name of the model; without --checkpoint, with its published weights
        checkpoint: a run folder or a .safetensors file of a run; with --model also a file of the authors' weights
        output: the file (default: NAME.onnx, NAME.xml or NAME.pt2 in this folder)
        dynamic: what may differ from call to call: batch,size or batch or size or none (default: batch,size; size for
            models that find objects, which take an image at a time)
        img_size: height and width in pixels, for a fixed size or for --preprocess (default: the model's)
        batch_size: images per call, for a fixed batch (default: 1)
        precision: fp32, fp16 for a file of half the size, or int8 for integer arithmetic
        calibration: for int8: images that are similar to those in use, as a folder or a data set; labels are not needed
        calibration_images: number of images for the calibration
        preprocess: the file takes RGB images of any size, uint8 (B, H, W, 3), and resizes, crops and normalises them
        features: the file gives the maps of the four stages instead of the logits
        untrained: export random weights, to measure the speed of a runtime
        overwrite: replace an existing file
    """

    to: Literal["onnx", "openvino", "torch"] = "onnx"
    model: str | None = None
    checkpoint: str | None = None
    output: str | None = None
    dynamic: str | None = None
    img_size: int | None = None
    batch_size: int | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    calibration: str | None = None
    calibration_images: int = 300
    preprocess: bool = False
    features: bool = False
    untrained: bool = False
    overwrite: bool = False

    def __post_init__(self):
        if self.checkpoint is None and self.model is None:
            raise InvalidValueError("give --checkpoint, or --model for a model's published weights")
        if self.untrained and (self.model is None or self.checkpoint is not None):
            raise InvalidValueError("--untrained is for a --model without --checkpoint")
        check_numbers(self)
        if self.to == "torch" and self.precision != "fp32":
            raise InvalidValueError("--to torch writes fp32")
        if self.output is not None and Path(self.output).suffix != ENDINGS[self.to]:
            raise InvalidValueError(f"--output {self.output}: a file for {self.to} ends with {ENDINGS[self.to]}")
        if (self.precision == "int8") != (self.calibration is not None):
            raise InvalidValueError("--precision int8 and --calibration DATA are for each other")
        axes = ("batch", "size") if self.open_axes is None else self.open_axes
        if self.preprocess:
            if "size" not in axes:
                raise InvalidValueError(f"--preprocess takes images of any size: --dynamic {self.dynamic} fixes it")
            if self.precision == "int8" or (self.precision, self.to) == ("fp16", "onnx"):
                raise InvalidValueError(
                    f"--preprocess with --precision {self.precision} is not built for --to {self.to}"
                )
        for name, axis in (("img_size", "size"), ("batch_size", "batch")):
            if getattr(self, name) is not None and axis in axes and not (name == "img_size" and self.preprocess):
                raise InvalidValueError(
                    f"{option(name)} is for a fixed {axis}: --dynamic {self.dynamic or ','.join(axes)} leaves it open"
                )

    @property
    def open_axes(self) -> tuple[str, ...] | None:
        """The axes that --dynamic leaves open; None without --dynamic."""
        if self.dynamic is None:
            return None
        if self.dynamic == "none":
            return ()
        names = tuple(self.dynamic.split(","))
        for name in names:
            if name not in ("batch", "size"):
                raise InvalidValueError(f"--dynamic takes batch, size or both, or none, not {name!r}")
        return names


@dataclass(frozen=True)
class ServeConfig:
    """A service.

    Args:
        checkpoint: a run folder or a .safetensors file of a run; with --model also a file of the authors' weights
        model: name of the model, where the checkpoint does not know it; without --checkpoint, its published weights
        host: address to listen on; 0.0.0.0 means all addresses of this machine
        port: port to listen on
        engine: openvino, onnxruntime or torch; auto uses the first of them that is installed
        threads: cores to compute on (default: all)
        max_batch: largest number of images that are computed together
        max_wait_ms: milliseconds for which an idle service waits for more images after the first
        max_queue: largest number of images that wait; beyond it, a request is answered with 503
        max_images: largest number of images in a request
        max_megabytes: largest size of a request
        max_megapixels: largest size of a decoded image
        max_connections: largest number of connections; less if the system allows fewer open files. Beyond it, the
            connection that has waited longest for its client is closed
        timeout: seconds after which a request without an answer is given up; a service that stops waits as long for
            the requests that it has accepted
        idle_timeout: seconds for a request's first line and headers, and between two parts of its body
        allowed_hosts: host names in requests that the service accepts, separated by commas: example.com,
            *.example.com, or * for any; it always accepts IP addresses, localhost and this machine's name
        root_path: the path under which a proxy shows the service, for instance /glocal
    """

    checkpoint: str | None = None
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    engine: Literal["auto", "openvino", "onnxruntime", "torch"] = "auto"
    threads: int | None = None
    max_batch: int = 16
    max_wait_ms: float = 2.0
    max_queue: int = 256
    max_images: int = 64
    max_megabytes: float = 32.0
    max_megapixels: float = 50.0
    max_connections: int = 1000
    timeout: float = 30.0
    idle_timeout: float = 10.0
    allowed_hosts: str | None = None
    root_path: str | None = None

    def __post_init__(self):
        if self.checkpoint is None and self.model is None:
            raise InvalidValueError("give --checkpoint, or --model for a model's published weights")
        if isinstance(self.port, int) and not 0 <= self.port < 65536:
            raise InvalidValueError(f"--port must be from 0 to 65535, got {self.port}")
        check_numbers(self)
        if self.max_images > self.max_queue:
            raise InvalidValueError(
                f"--max-images {self.max_images} is more than --max-queue {self.max_queue} ever lets in"
            )
        if self.root_path is not None and not ROOT_PATH.fullmatch(self.root_path):
            raise InvalidValueError(f"--root-path must look like /glocal, got {self.root_path!r}")
        for name in self.allowed_hosts.split(",") if self.allowed_hosts is not None else ():
            if not HOST.fullmatch(name):
                raise InvalidValueError(f"--allowed-hosts: {name!r} is neither a host's name, nor *.NAME, nor *")

    @property
    def known_hosts(self) -> list[str]:
        """The host names that the service accepts, beside IP addresses."""
        own = [name for name in (self.host, socket.gethostname()) if HOST.fullmatch(name)]
        return ["localhost", *own, *(self.allowed_hosts.split(",") if self.allowed_hosts is not None else ())]
