"""What a measurement can be told. Kept free of torch, so that `glocal eval --help` answers at once."""

from dataclasses import dataclass, field

from glocal.data.corruptions import ALEXNET_ERROR
from glocal.errors import InvalidValueError
from glocal.options import PIXELS, check_numbers, whole_numbers

SPLITS = ("auto", "train", "val", "all")
SETS = ("imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2", "imagenet-c", "real")


@dataclass(frozen=True)
class EvalConfig:
    """A measurement of a trained model.

    Args:
        data: what `glocal train` takes: a folder of images, one subfolder per class, or the name of an embedded set
            (default: the data of the run); with --set, the folder of that set
        checkpoint: a run folder or a .safetensors file of a run; with --model also a file of the authors' weights
        model: name of the model, where the checkpoint does not know it; without --checkpoint, its published weights
        split: part of the data: train, val, all, or auto: val where there is one. Of a folder that `glocal train` split
            itself, val is the part that it held out
        img_size: height and width of the model's input in pixels (default: that of the training)
        sizes: measure at each of these sizes, for instance 224,256,320
        set: DATA is a robustness set of ImageNet in its published layout: imagenet-a, imagenet-r, imagenet-sketch,
            imagenet-v2, imagenet-c or real
        corruptions: measure DATA also with ImageNet-C's corruptions made on the fly: all, or some of them, for
            instance fog,snow
        batch_size: images per step
        workers: processes that read images (default: one per CPU core, at most 8; none for digits)
        strict: a JPEG that lacks its last bytes is unreadable, instead of being read with a note
        device: auto, cpu, cuda, cuda:1, mps, …
        json: file for the results: top1, top5 (percent), loss, images_per_second and what they were measured on
        plots: folder for the confusion matrix, the reliability diagram and, with --sizes or --corruptions, their curves
        compare: measure nothing, but show the results in these --json files side by side (default: none)
    """

    data: str | None = None
    checkpoint: str | None = None
    model: str | None = None
    split: str = "auto"
    img_size: int | None = None
    sizes: str | None = None
    set: str | None = None
    corruptions: str | None = None
    batch_size: int = 64
    workers: int | None = None
    strict: bool = False
    device: str = "auto"
    json: str | None = None
    plots: str | None = None
    compare: list[str] = field(default_factory=list)

    def __post_init__(self):
        check_numbers(self)
        if self.split not in SPLITS:
            raise InvalidValueError(f"--split must be auto, train, val or all, got {self.split!r}")
        if self.set is not None and self.set not in SETS:
            raise InvalidValueError(f"--set must be {', '.join(SETS[:-1])} or {SETS[-1]}, got {self.set!r}")
        if self.set is not None and self.split not in ("auto", "all"):
            raise InvalidValueError(f"--split {self.split} does not apply to --set {self.set}, which is one part")
        _exclude(self, "sizes", "img_size")
        _exclude(self, "sizes", "corruptions")
        _exclude(self, "set", "corruptions")
        if self.set == "imagenet-c":
            _exclude(self, "sizes", "set")
        if self.set is not None and self.data is None:
            raise InvalidValueError(f"--set {self.set} needs DATA, the folder of that set")
        if len(self.compare) == 1:
            raise InvalidValueError("--compare needs at least two files")
        self.size_list()
        self.corruption_list()

    def size_list(self) -> list[int]:
        """The sizes of --sizes; ValueError for what is none."""
        if self.sizes is None:
            return []
        return whole_numbers(self.sizes, "--sizes", "sizes in pixels such as 224,256,320", PIXELS)

    def corruption_list(self) -> list[str]:
        """The corruptions of --corruptions; ValueError for an unknown one."""
        if self.corruptions is None or self.corruptions == "all":
            return list(ALEXNET_ERROR) if self.corruptions else []
        names = list(dict.fromkeys(part.strip() for part in self.corruptions.split(",")))
        for name in names:
            if name not in ALEXNET_ERROR:
                raise InvalidValueError(f"--corruptions: {name!r} is none of {', '.join(ALEXNET_ERROR)} (or all)")
        return names


def _exclude(config: EvalConfig, one: str, other: str) -> None:
    if getattr(config, one) is not None and getattr(config, other) is not None:
        raise InvalidValueError(f"--{one} and --{other.replace('_', '-')} exclude each other")
