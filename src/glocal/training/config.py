"""What a run can be told. Kept free of torch, so that `glocal train --help` answers at once."""

import math
from dataclasses import dataclass

DEFAULT_MODEL = "transxnet_pico"


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        data: folder of images, one subfolder per class, in `train` and `val` or split by --val-fraction; or the name
            of an embedded set (default: digits)
        model: name of a model of this library or of timm; by default that of --checkpoint, or transxnet_pico
        output: folder for the results (default: runs/DATA-MODEL)
        overwrite: replace the run in the output folder; other files in it stay
        epochs: passes over the training images; 10 are enough for digits and for fine-tuning, photos from scratch need
            many more
        seed: of the weights, the order of the images, their random changes, and the split; on a CPU, the same seed
            gives the same weights, bit for bit
        img_size: height and width of the model's input in pixels (default: 32 for digits, otherwise the model's own)
        batch_size: images per step (default: 128 up to 64 pixels, otherwise 64; less where an epoch would have fewer
            than 8 steps)
        lr: highest learning rate of AdamW (default: 0.002 × √(batch size / 64); with --pretrained or --checkpoint a
            tenth of that)
        weight_decay: of AdamW; norms, biases and what the model excludes are not decayed
        warmup_epochs: epochs of rising learning rate, before it falls along a cosine (default: a tenth of the epochs,
            at most 5)
        label_smoothing: part of each target that is spread over all classes
        drop_path: highest rate of stochastic depth (default: the model's own)
        val_fraction: part of each class to hold out of a folder without `val` (default: 0.2)
        pretrained: start from the model's published weights
        checkpoint: start from these weights: a run folder, a .safetensors file of a run, or a file of the authors'
            weights
        crop_scale: smallest part of the image that a random crop keeps (default: 0.6 up to 64 pixels, otherwise 0.35)
        hflip: probability of a mirror image (default: 0 for digits, otherwise 0.5)
        color_jitter: strength of random changes of brightness, contrast and saturation
        auto_augment: timm's notation of a policy, for instance rand-m9-mstd0.5
        random_erasing: probability of overwriting a random rectangle
        workers: processes that read images (default: one per CPU core, at most 8; none for digits)
        device: auto, cpu, cuda, cuda:1, mps, …
    """

    data: str = "digits"
    model: str | None = None
    output: str | None = None
    overwrite: bool = False
    epochs: int = 10
    seed: int = 0
    img_size: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float = 0.05
    warmup_epochs: float | None = None
    label_smoothing: float = 0.1
    drop_path: float | None = None
    val_fraction: float | None = None
    pretrained: bool = False
    checkpoint: str | None = None
    crop_scale: float | None = None
    hflip: float | None = None
    color_jitter: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0
    workers: int | None = None
    device: str = "auto"

    def __post_init__(self):
        _check(self, "epochs", 1)
        _check(self, "seed", 0, 2**32 - 1)
        _check(self, "img_size", 1)
        _check(self, "batch_size", 1)
        _check(self, "lr", 0, above=True)
        _check(self, "weight_decay", 0)
        _check(self, "warmup_epochs", 0, self.epochs)
        _check(self, "label_smoothing", 0, 1, below=True)
        _check(self, "drop_path", 0, 1, below=True)
        _check(self, "val_fraction", 0, 1, above=True, below=True)
        _check(self, "crop_scale", 0, 1, above=True)
        _check(self, "hflip", 0, 1)
        _check(self, "color_jitter", 0)
        _check(self, "random_erasing", 0, 1)
        _check(self, "workers", 0)
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("--pretrained and --checkpoint both say where to start: give one of them")


@dataclass(frozen=True)
class EvalConfig:
    """A measurement of a trained model.

    Args:
        data: folder of images, one subfolder per class, or the name of an embedded set (default: digits)
        checkpoint: a run folder or a .safetensors file of a run; with --model also a file of the authors' weights
        model: name of the model, where the checkpoint does not know it; without --checkpoint, its published weights
        split: part of the data: train, val, all, or auto: val where there is one. Of a folder that `glocal train` split
            itself, val is the part that it held out
        img_size: height and width of the model's input in pixels (default: that of the training)
        batch_size: images per step
        workers: processes that read images (default: one per CPU core, at most 8; none for digits)
        device: auto, cpu, cuda, cuda:1, mps, …
        json: file for the results: top1, top5 (percent), loss, images_per_second and what they were measured on
    """

    data: str = "digits"
    checkpoint: str | None = None
    model: str | None = None
    split: str = "auto"
    img_size: int | None = None
    batch_size: int = 64
    workers: int | None = None
    device: str = "auto"
    json: str | None = None

    def __post_init__(self):
        _check(self, "img_size", 1)
        _check(self, "batch_size", 1)
        _check(self, "workers", 0)
        if self.split not in ("auto", "train", "val", "all"):
            raise ValueError(f"--split must be auto, train, val or all, got {self.split!r}")


def _check(config, name: str, low: float, high: float = math.inf, above: bool = False, below: bool = False) -> None:
    """Raise ValueError for a number outside [low, high]; `above` and `below` exclude the ends. None passes."""
    value = getattr(config, name)
    if value is None:
        return
    enough = value > low if above else value >= low
    little = value < high if below else value <= high
    if math.isfinite(value) and enough and little:
        return
    bounds = [f"more than {low:g}" if above else f"at least {low:g}"]
    if high != math.inf:
        bounds.append(f"less than {high:g}" if below else f"at most {high:g}")
    raise ValueError(f"--{name.replace('_', '-')} must be {' and '.join(bounds)}, got {value:g}")
