"""A step of a model, ready to be timed: a forward pass, one with what makes results of it, or a step of a training."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from timm.optim import create_optimizer_v2
from timm.utils import reparameterize_model
from torch import Tensor, nn

from glocal import deploy
from glocal.bench import cost, detection, headed
from glocal.bench.config import BenchConfig, is_run
from glocal.bench.parts import Parts
from glocal.data.batch import Batch
from glocal.data.geometry import Geometry
from glocal.deploy.files import coarse_images
from glocal.models.detection import DetectionModel
from glocal.tasks.creation import create_model
from glocal.tasks.loading import load_trained
from glocal.tasks.task import Task

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Entry(NamedTuple):
    """A model that is timed. name: as the options give it. head: "": as it is, or a backbone alone."""

    name: str
    head: str = ""


@dataclass(frozen=True)
class Step:
    """A step of a model. run: takes it. parts: where its time goes; None: not known.

    finds: whether `run` returns objects: a list of columns, each with an entry for each image.
    """

    run: Callable[[], object]
    parts: Parts | None = None
    finds: bool = False


class Built(NamedTuple):
    """A model of a comparison. channels: of its images. task: whose it is, if it has a head."""

    model: nn.Module
    channels: int
    task: Task | None = None


def cost_of(entry: Entry, config: BenchConfig, size: tuple[int, int]) -> dict[str, int]:
    """The parameters and multiply–accumulates of a model of a task with heads; nothing for others."""
    if not config.head:
        return {}
    # A run is built with its weights.
    with nullcontext() if is_run(entry.name) else torch.device("meta"):
        model = build(entry, config, size).model
    detector = detector_in(model)
    if detector is None:
        found = cost.count(model.to("meta"), entry.name, size)
    else:
        found = detection.cost(detector.to("meta"), entry.name, size)
    return {"params": found.params, "macs": found.macs}


def step_of(entry: Entry, config: BenchConfig, device: torch.device, size: tuple[int, int], batch: int) -> Step:
    """One step of a model, ready to be taken again and again."""
    torch.manual_seed(0)  # the same weights every time: engines keep what they compile by content
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model, channels, task = build(entry, config, size)
    detector = detector_in(model)
    shape = batch, channels, *size
    # A detector sees no objects in fine noise.
    images = torch.randn(shape) if detector is None else next(iter(coarse_images([shape])))
    finds = detector is not None and config.mode == "infer"
    if finds:
        if not is_run(entry.name):
            detection.let_find(detector, images)
        if model is detector:
            model = task.outputs(model)
    if config.fuse:
        model = reparameterize_model(model)
    model = model.to(device, memory_format=layout)
    if config.engine != "torch":
        engine = deploy.compile(model.eval(), config.engine, tuple(images.shape[1:]), config.threads, config.precision)
        if finds:
            return Step(partial(find, task, engine, images), finds=True)
        return Step(partial(engine, images.numpy()))
    images = images.to(device).contiguous(memory_format=layout)
    autocast = nullcontext
    if config.precision in DTYPES:
        autocast = partial(torch.autocast, device.type, DTYPES[config.precision])
    if config.mode == "infer":
        model.eval()
    if config.compile:
        model.compile()
    if config.mode == "train":
        return Step(_training(model, _loss_of(model, entry, config, images), autocast))

    @torch.inference_mode()
    def infer():
        with autocast():
            return find(task, model, images) if finds else model(images)

    if not finds or config.compile or device.type != "cpu":  # other devices compute while Python goes on
        return Step(infer, finds=finds)
    parts = Parts(detector_in(model), infer)
    return Step(parts.run, parts, finds=True)


def find(task: Task, compute: Callable, images: Tensor) -> list:
    """The objects in images (B, C, H, W) as the task's results need them, at the size of the images."""
    size = tuple(images.shape[2:])
    geometry = Geometry(size, size, (0, 0, *size))
    return task.predict(compute, Batch(images, None, [geometry] * len(images), []), {})


def _loss_of(model: nn.Module, entry: Entry, config: BenchConfig, images: Tensor) -> Callable[[], Tensor]:
    """A function that computes the loss of a training on images and made-up targets."""
    if config.head:
        return headed.loss_of(model, entry.head, images)
    labels = torch.randint(model.num_classes, images.shape[:1], device=images.device)
    return lambda: nn.functional.cross_entropy(model(images), labels)


def _training(model: nn.Module, loss_of: Callable[[], Tensor], autocast: Callable) -> Callable[[], None]:
    """A step of AdamW."""
    model.train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05)

    def train():
        with autocast():
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def build(entry: Entry, config: BenchConfig, size: tuple[int, int]) -> Built:
    """The model of a name or a run."""
    if is_run(entry.name):
        trained = load_trained(entry.name)
        return Built(trained.task.outputs(trained.model), trained.preprocessing["input_size"][0], trained.task)
    if entry.head:
        model = headed.with_head(entry.name, entry.head, size, config.head_args)
        return Built(model, model.pretrained_cfg["input_size"][0], headed.task_of(entry.head))
    if config.head:
        model = headed.backbone(entry.name, size)
        return Built(model, model.pretrained_cfg["input_size"][0])
    name, options = headed.sized(entry.name, size)
    model = create_model(name, **options)
    return Built(model, model.pretrained_cfg["input_size"][0])


def detector_in(model: nn.Module) -> DetectionModel | None:
    """The detector that a module is or holds."""
    return next((part for part in model.modules() if isinstance(part, DetectionModel)), None)
