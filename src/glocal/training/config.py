"""Options of a training run: the loop's and the tasks' options in one flat list. Imports no torch."""

import math
import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from glocal.errors import InvalidValueError
from glocal.options import (
    LONGEST_GROUP,
    NO_NAME,
    Range,
    check_data_args,
    check_number,
    check_values,
    exclude,
    joined,
    option,
    read_options,
)
from glocal.tasks import registered_tasks
from glocal.tasks.run_files import DEFAULT_DATA
from glocal.tasks.task import Task
from glocal.wording import shown

DEFAULT_MODEL = "transxnet_pico"
RECIPES = Path(__file__).parent / "recipes"
LOGGERS = ("tensorboard", "wandb", "mlflow")
QUICK_BATCHES, QUICK_BATCH_SIZE, QUICK_IMG_SIZE = 8, 16, 64


@dataclass(frozen=True)
class LoopOptions:
    """Options of a training run that every task has.

    Args:
        data: folder of images, one subfolder per class, in `train` and `val` or split by --val-fraction; a CSV file of
            paths and labels; tar shards such as shards/train-{0000..0099}.tar; a folder of MNIST's four files;
            hf:NAME of a Hugging Face data set; a folder of images and masks, of COCO's JSON files, or of boxes in
            PASCAL VOC's or YOLO's format; or the name of an embedded set (default: digits)
        data_args: arguments of the data's layout, for instance {masks: labels}
        task: what the model learns, for instance classification or multilabel (default: the task of the data's format)
        model: name of a model of this library or of timm (default: the model of --checkpoint, or transxnet_pico)
        model_args: further arguments of the model, for instance {pretrain_size: 224}
        output: folder for the results (default: runs/DATA-MODEL)
        overwrite: replace the run in the output folder; all other files in the folder stay
        resume: continue the run in the output folder with the options that it was started with; without --resume, an
            unfinished run continues only if all options are the same
        show_batch: write a picture of the run's first images, as the model gets them, with their targets to this PNG
            file, and end without training; the output folder is left as it is. What the loss changes is not shown:
            --mixup, --cutmix and --label-smoothing
        quick: shorten the run to about a minute, to try all its steps: a few batches of small images, two epochs
        epochs: passes over the training images; 10 are enough for digits and for fine-tuning, photos from scratch need
            many more
        epoch_steps: steps of one epoch, whatever the number of images: --epochs 10 --epoch-steps 16000 are 160,000
            steps (default: a pass over the training images)
        seed: seed of the weights, the order of the images, their random changes, and the split; on a CPU, the same
            seed gives the same weights, bit for bit
        img_size: height and width of the model's input in pixels (default: 32 for digits, otherwise the model's own)
        batch_size: images per step, on all devices together (default: 128 up to 64 pixels, otherwise 64; less if an
            epoch would have fewer than 8 steps)
        accumulate: number of successive parts in which a device computes its share of a batch, to need less memory
        optimizer: timm's name of an optimizer
        lr: highest learning rate (default: 0.002 × √(batch size / 64); a tenth of it with --pretrained or --checkpoint)
        lr_batch_size: the batch size for which --lr is meant; for another batch size, --lr is scaled in proportion
        schedule: how the learning rate falls: cosine; poly, as (1 - step / all steps) to a power; multistep, to a tenth
            at each of --milestones
        poly_power: power of --schedule poly (default: 1)
        milestones: epochs at which --schedule multistep lowers the learning rate, such as 8,11
        min_lr: lowest learning rate, at the end of the schedule (default: a hundredth of the highest with cosine,
            otherwise 0)
        warmup_lr: learning rate of the first step (default: a hundredth of the highest)
        warmup_ratio: the same as a part of the highest learning rate, from 0 to 1; during the warm-up, the schedule's
            rate is then multiplied by a factor that rises from this part to 1, as it always is with poly and multistep
        warmup_epochs: epochs in which the learning rate rises, before it falls (default: a tenth of the epochs, at
            most 5)
        warmup_steps: the same in steps
        cooldown_epochs: further epochs at the lowest learning rate, after --epochs
        weight_decay: weight decay of the optimizer; norms, biases and the parameters that the model excludes have none
        decay_1d: let norms, biases and the parameters that the model excludes decay, too
        parameter_rules: factors of the learning rate and the weight decay for parameters by their names, each as one
            text such as "backbone.* lr=0.1" or "*norm* decay=0"; the later of two rules counts (default: none)
        layer_decay: factor of the learning rate from each group of layers to the group before it
        clip_grad: largest norm of the gradient
        drop_path: highest rate of stochastic depth; the rate grows linearly over the blocks (default: the model's own)
        ema: decay of an exponential moving average of the weights, for instance 0.9998; the averaged weights are kept
        ema_warmup: let the decay of --ema rise to its value during the first steps
        val_fraction: part of each class to hold out, if the data has no validation part (default: 0.2)
        group: what images that stay on one side of the split have in common, for instance those of a patient: a column
            of a table, or a regular expression that finds it in the names of files
        val_every: validate after every so many epochs, and after the last epoch
        pretrained: start from the model's published weights
        checkpoint: start from these weights: a run folder, a .safetensors file of a run, or a file of the authors'
            weights; with --pretrained, this file replaces the published weights
        freeze: parts of the model that are not trained, for instance stem,stages.0-2
        crop_pct: part of the shorter side that measuring and predicting keep (default: the model's own)
        crop_mode: how measuring and predicting crop: center, squash (resize to a square) or border (default: the
            model's own)
        repeated_augmentation: how many differently changed copies of an image follow each other; an epoch has as many
            steps as before
        max_bad: largest part of the training images that may be unreadable, such as 1%
        strict: refuse data with masks or boxes that do not fit, instead of leaving these out with a note; treat a JPEG
            that lacks its last bytes as unreadable
        workers: processes that read images (default: one per CPU core, at most 8; none for digits)
        precision: fp32, or bf16 or fp16, with which many devices are faster
        compile: use torch.compile: always, never, or auto (on a GPU)
        grad_checkpointing: compute activations again instead of keeping them, to need less memory
        device: auto, cpu, cuda, cuda:1, mps, …
        devices: number of devices on each node
        num_nodes: number of machines
        strategy: ddp (a copy of the model on every device) or fsdp (a part of the model on each device)
        sync_bn: compute batch norm over all devices: always, never, or auto (with several GPUs)
        save_every_minutes: minutes between two saved states within an epoch
        loggers: loggers beside metrics.csv, for instance tensorboard or tensorboard,wandb; also mlflow
    """

    METAVARS: ClassVar = {"parameter_rules": "RULE"}

    data: str = DEFAULT_DATA
    data_args: dict = field(default_factory=dict)
    task: str | None = None
    model: str | None = None
    model_args: dict = field(default_factory=dict)
    output: str | None = None
    overwrite: bool = False
    resume: bool = False
    show_batch: str | None = None
    quick: bool = False
    epochs: int = 10
    epoch_steps: int | None = None
    seed: int = 0
    img_size: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float | None = None
    lr_batch_size: int | None = None
    schedule: Literal["cosine", "poly", "multistep"] = "cosine"
    poly_power: float | None = None
    milestones: str | None = None
    min_lr: float | None = None
    warmup_lr: float | None = None
    warmup_ratio: float | None = None
    warmup_epochs: float | None = None
    warmup_steps: int | None = None
    cooldown_epochs: int = 0
    weight_decay: float = 0.05
    decay_1d: bool = False
    parameter_rules: list[str] = field(default_factory=list)
    layer_decay: float | None = None
    clip_grad: float | None = None
    drop_path: float | None = None
    ema: float | None = None
    ema_warmup: bool = False
    val_fraction: float | None = None
    group: str | None = None
    val_every: int = 1
    pretrained: bool = False
    checkpoint: str | None = None
    freeze: str | None = None
    crop_pct: float | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    repeated_augmentation: int = 1
    max_bad: str | None = None
    strict: bool = False
    workers: int | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: Literal["auto", "always", "never"] = "auto"
    grad_checkpointing: bool = False
    device: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    sync_bn: Literal["auto", "always", "never"] = "auto"
    save_every_minutes: float = 10.0
    loggers: str | None = None

    def __post_init__(self):
        check_values(self)
        check_data_args(self.data_args)
        if self.group is not None and (len(self.group) > LONGEST_GROUP or NO_NAME.search(self.group)):
            raise InvalidValueError(
                f"--group must be a column or a regular expression of at most {LONGEST_GROUP} characters, "
                f"got {shown(self.group)}"
            )
        if self.warmup_epochs is not None:
            check_number("--warmup-epochs", self.warmup_epochs, float, Range(0, self.epochs))
        exclude(self, "warmup_epochs", "warmup_steps")
        exclude(self, "warmup_lr", "warmup_ratio")
        self._check_schedule()
        parameter_rules(self.parameter_rules)
        for logger in self.loggers.split(",") if self.loggers else ():
            if logger not in LOGGERS:
                raise InvalidValueError(f"--loggers knows {', '.join(LOGGERS)}, not {logger!r}")
        part_of(self.max_bad, "--max-bad")
        if self.show_batch is not None and not self.show_batch.lower().endswith(".png"):
            raise InvalidValueError(f"--show-batch must be the name of a .png file, got {shown(self.show_batch)}")
        if self.overwrite and self.resume:
            raise InvalidValueError("--overwrite and --resume exclude each other")

    def _check_schedule(self) -> None:
        for name, own in (("poly_power", "poly"), ("milestones", "multistep")):
            if getattr(self, name) is not None and self.schedule != own:
                raise InvalidValueError(f"{option(name)} is for --schedule {own}, not {self.schedule}")
        if self.schedule == "multistep" and self.milestones is None:
            raise InvalidValueError("--schedule multistep needs --milestones, such as 8,11")
        if any(epoch >= self.epochs for epoch in milestones_of(self.milestones)):
            raise InvalidValueError(f"--milestones {self.milestones} must be before the end, --epochs {self.epochs}")

    @property
    def world_size(self) -> int:
        """The number of devices on all nodes together."""
        return self.devices * self.num_nodes

    @classmethod
    def from_recipe(cls, recipe: str, **changes) -> "LoopOptions":
        """The options of a recipe of this library, with changes; raises ValueError as `find_recipe` does."""
        path = find_recipe(recipe, changes.get("model"))
        return cls(**{**read_options(path, cls, f"the recipe {recipe}"), **changes})

    def shrunk(self) -> "LoopOptions":
        """The options of the run with --quick. `QUICK_BATCHES` also limits the batches per epoch."""
        small = QUICK_BATCH_SIZE * self.accumulate * self.world_size
        epochs = min(self.epochs, 2)
        milestones = [f"{epoch * epochs / self.epochs:g}" for epoch in milestones_of(self.milestones)]
        return replace(
            self,
            epochs=epochs,
            milestones=",".join(milestones) or None,
            epoch_steps=None if self.epoch_steps is None else min(self.epoch_steps, QUICK_BATCHES),
            warmup_epochs=None if self.warmup_epochs is None else min(self.warmup_epochs, 1),
            warmup_steps=None if self.warmup_steps is None else min(self.warmup_steps, QUICK_BATCHES),
            cooldown_epochs=0,
            val_every=1,
            img_size=min(self.img_size or QUICK_IMG_SIZE, QUICK_IMG_SIZE),
            batch_size=min(self.batch_size or small, small),
        )


def train_config(*tasks: Task) -> type[LoopOptions]:
    """The loop's and the tasks' options as one flat dataclass: for the command line, recipes and config.yaml.

    tasks: by default, all registered tasks. Raises ValueError if two tasks define an option in two ways.
    """
    return joined(
        "TrainConfig", "A training run.", LoopOptions, *(task.Options for task in tasks or registered_tasks())
    )


TrainConfig = train_config()


def part_of(text: str | None, name: str) -> float | None:
    """The number from 0 to 1 that a text such as 1% or 0.01 means; None for None."""
    if text is None:
        return None
    number = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", str(text))
    value = float(number[1]) / (100 if number[2] else 1) if number else math.nan
    if not 0 <= value <= 1:
        raise InvalidValueError(f"{name} must be a part such as 1% or 0.01, got {shown(text)}")
    return value


def milestones_of(text: str | None) -> list[float]:
    """The epochs that a text such as 8,11 names, in rising order; none for None."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if all(re.fullmatch(r"\d{1,6}(\.\d{1,6})?", part) for part in parts):
        epochs = [float(part) for part in parts]
        if all(before < after for before, after in pairwise([0.0, *epochs])):
            return epochs
    raise InvalidValueError(f"--milestones must be rising epochs such as 8,11, got {shown(text)}")


class ParameterRule(NamedTuple):
    """Factors for the parameters whose names match a pattern; None: the rule does not say.

    pattern: as file names have them, with * and ?. lr: of the learning rate. decay: of the weight decay.
    """

    pattern: str
    lr: float | None = None
    decay: float | None = None


def parameter_rules(texts: list[str]) -> list[ParameterRule]:
    """The rules that texts such as "backbone.* lr=0.1" and "*norm* decay=0" stand for; ValueError for any other."""
    rules = []
    for text in texts:
        pattern, *factors = text.split() or [""]
        found = [re.fullmatch(r"(lr|decay)=(\d{1,4}(?:\.\d{1,12})?|\d{1,4}e-\d\d?)", factor) for factor in factors]
        values = {one[1]: float(one[2]) for one in found if one}
        if not values or len(values) != len(factors):
            raise InvalidValueError(
                f'--parameter-rules must be names with lr=X or decay=X such as "backbone.* lr=0.1", got {shown(text)}'
            )
        rules.append(ParameterRule(pattern, **values))
    return rules


def recipe_names() -> list[str]:
    """The recipes of this library."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def find_recipe(name: str, model: str | None = None) -> Path:
    """The file of a recipe of this library; ValueError for an unknown name, with the closest names and all names.

    model: the model to train. A recipe of another model is a ValueError too, because it has other rates.
    """
    path = RECIPES / f"{name}.yaml"
    known = recipe_names()
    if name not in known:
        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise InvalidValueError(f"unknown recipe {shown(name)}; {hint}there are {', '.join(known)}")
    own = None if model is None else read_options(path, TrainConfig, f"the recipe {name}").get("model")
    if own is not None and model != own:
        raise InvalidValueError(f"the recipe {name} is for the model {own}, not {model}")
    return path
