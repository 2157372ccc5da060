"""What a measurement can be told. Kept free of torch, so that `glocal eval --help` answers at once."""

from dataclasses import dataclass

from glocal.training.config import _check


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
