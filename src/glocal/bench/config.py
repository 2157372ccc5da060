"""Options of a benchmark. Imports no torch, so that `glocal bench --help` answers at once."""

import os
import re
from ast import literal_eval
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, NamedTuple

from glocal.errors import InvalidValueError
from glocal.options import IMAGES, PIXELS, check_number, check_values, option, whole_numbers
from glocal.tasks.detection.task import DETECTION
from glocal.tasks.heads import chosen_head
from glocal.tasks.instances.task import INSTANCES
from glocal.wording import shown


class Defaults(NamedTuple):
    """What a comparison for a task takes, if nothing is said. heads: all of the task's, the default first."""

    batch_sizes: str
    sizes: str
    heads: tuple[str, ...] = ()


DEFAULTS = {
    "classification": Defaults("8", "224"),
    "segmentation": Defaults("1", "512", ("upernet", "semantic_fpn", "mask2former")),
    "detection": Defaults("1", "800x1280", (*DETECTION.heads, *INSTANCES.heads)),
    "instances": Defaults("1", "800x1280", INSTANCES.heads),
}
HEADED = [name for name, defaults in DEFAULTS.items() if defaults.heads]


@dataclass(frozen=True)
class BenchConfig:
    """A comparison of models' speed, side by side in one process.

    Args:
        models: names of models, of this library or of timm; with arguments: transnext_tiny,pool_size=7; or runs: the
            --output of a training, for inference
        baseline: the model whose time is 1
        mode: infer (a forward pass), or train (forward, backward and a step of AdamW)
        batch_sizes: images per step, for instance 1,8 (default: 8; for models with a head 1)
        sizes: of the images in pixels: sides of squares, or HEIGHTxWIDTH, for instance 224,512x384 (default: 224; for
            segmentation 512, for detection and instances 800x1280)
        precision: fp32, or bf16 or fp16: autocast
        fuse: merge norms and scales into the convolutions first, for inference
        compile: torch.compile the models
        channels_last: keep the channels of a pixel together in memory
        rounds: timed passes over all models; the median counts
        engine: torch, or openvino or onnxruntime for models as `glocal.deploy.compile` makes them, on a CPU
        device: auto, cpu, cuda, cuda:1, mps, …
        threads: of the CPU (default: as many as torch takes)
        json: also write the figures to this file
        task: classification; or segmentation, detection or instances for backbones with a head, trained on made-up
            label maps or objects
        head: of segmentation upernet (default), semantic_fpn or mask2former; of detection retinanet (default),
            faster_rcnn, dino, d_fine, mask_rcnn or cascade_mask_rcnn; of instances one of the last two
        head_args: further arguments of a head for objects, for instance {scales: 5}
        backbones: also time the backbones alone, beside those with the head
    """

    models: list[str]
    baseline: str = "convnext_tiny"
    mode: Literal["infer", "train"] = "infer"
    batch_sizes: str | None = None
    sizes: str | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    fuse: bool = False
    compile: bool = False
    channels_last: bool = True
    rounds: int = 10
    engine: Literal["torch", "openvino", "onnxruntime"] = "torch"
    device: str = "auto"
    threads: int | None = None
    json: str | None = None
    task: Literal["classification", "segmentation", "detection", "instances"] = "classification"
    head: str | None = None
    head_args: dict = field(default_factory=dict)
    backbones: bool = False

    def __post_init__(self):
        check_values(self)
        defaults = DEFAULTS[self.task]
        for name in ("batch_sizes", "sizes"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(defaults, name))
        if defaults.heads:
            object.__setattr__(self, "head", chosen_head(self.task, defaults.heads, self.head))
        else:
            for name in ("head", "head_args", "backbones"):
                if getattr(self, name):
                    raise InvalidValueError(f"{option(name)} is for --task {', '.join(HEADED)}")
        for model in self.models:
            if not is_run(model):
                parse_model(model)
        numbers(self.batch_sizes, "--batch-sizes")
        parse_sizes(self.sizes)
        if self.fuse and self.mode == "train":
            raise InvalidValueError("--fuse is for inference: a fused model is not for training")
        if self.engine != "torch":
            for name, value in (("mode", "infer"), ("fuse", False), ("compile", False), ("channels_last", True)):
                if getattr(self, name) != value:
                    raise InvalidValueError(f"--{name.replace('_', '-')} is for --engine torch, not {self.engine}")
            if self.precision not in (("fp32", "bf16") if self.engine == "openvino" else ("fp32",)):
                raise InvalidValueError(f"--engine {self.engine} does not compute in {self.precision}")
            if self.device not in ("auto", "cpu"):
                raise InvalidValueError(f"--engine {self.engine} computes on a CPU, not on {self.device}")


def numbers(text: str, option: str) -> list[int]:
    """Positive integers separated by commas; ValueError, naming the option, for anything else."""
    return whole_numbers(str(text), option, "numbers such as 1,8", IMAGES)


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """Heights and widths, given as `224,512x384`; ValueError for anything else."""
    parts = [part.strip() for part in str(text).split(",")]
    if not all(re.fullmatch(r"[1-9]\d{0,9}(x[1-9]\d{0,9})?", part, re.ASCII) for part in parts):
        raise InvalidValueError(f"--sizes must be numbers such as 224,512x384, got {shown(text)}")
    sizes = [[int(side) for side in part.split("x")] for part in parts]
    for side in chain.from_iterable(sizes):
        check_number("--sizes", side, int, PIXELS)
    return [(size[0], size[-1]) for size in sizes]


def is_run(model: str) -> bool:
    """Whether a model is given as the folder or the file of a run."""
    return os.path.exists(model)


def parse_model(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME,argument=value,…` as the name and the arguments; ValueError for anything else."""
    name, *arguments = text.split(",")
    options = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.isidentifier():
            raise InvalidValueError(f"models are given as NAME or NAME,argument=value, got {text!r}")
        try:
            options[key] = literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return name, options
