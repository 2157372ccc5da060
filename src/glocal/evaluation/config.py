"""Options of a measurement: the common options and the tasks' options in one flat list. Imports no torch."""

from dataclasses import dataclass, field

from glocal.errors import InvalidValueError
from glocal.options import PIXELS, check_data_args, check_values, exclude, joined, whole_numbers
from glocal.tasks import registered_tasks
from glocal.tasks.task import Task

SPLITS = ("auto", "train", "val", "all")


@dataclass(frozen=True)
class MeasureOptions:
    """Options of a measurement that every task has.

    Args:
        data: data as for `glocal train`: a folder of images, one subfolder per class, or the name of an embedded set
            (default: the data of the run); with --set, the folder of that set
        checkpoint: a run folder or a .safetensors file of a run; with --model also a file of the authors' weights
        model: name of the model, if the checkpoint does not name it; without --checkpoint, its published weights are
            used
        data_args: arguments of the data's layout, for instance {masks: labels} (default: those of the run)
        split: part of the data: train, val, all, or auto, which means val if the data has it. If `glocal train` split
            the folder itself, val is the part that it held out
        img_size: height and width of the model's input in pixels (default: those of the training)
        sizes: measure at each of these sizes, for instance 224,256,320
        batch_size: images per step (default: 64; less for tasks with large outputs)
        workers: processes that read images (default: one per CPU core, at most 8; none for digits)
        strict: refuse data with masks or boxes that do not fit, instead of leaving these out with a note; treat a JPEG
            that lacks its last bytes as unreadable
        device: auto, cpu, cuda, cuda:1, mps, …
        json: file for the results: the task's measures, images_per_second, and the facts of the measurement
        plots: folder for figures: those of the task, for instance the confusion matrix of classification; with --sizes
            or --corruptions, also their curves
        pictures: folder for pictures of the 16 images that are predicted worst, with annotation and prediction, as PNG
            files whose names begin with 00 for the worst; --json then also lists them as worst
        compare: measure nothing; show the results in these --json files side by side (default: none)
    """

    data: str | None = None
    checkpoint: str | None = None
    model: str | None = None
    data_args: dict = field(default_factory=dict)
    split: str = "auto"
    img_size: int | None = None
    sizes: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    strict: bool = False
    device: str = "auto"
    json: str | None = None
    plots: str | None = None
    pictures: str | None = None
    compare: list[str] = field(default_factory=list)

    def __post_init__(self):
        check_values(self)
        check_data_args(self.data_args)
        if self.split not in SPLITS:
            raise InvalidValueError(f"--split must be auto, train, val or all, got {self.split!r}")
        exclude(self, "sizes", "img_size")
        exclude(self, "sizes", "pictures")
        if len(self.compare) == 1:
            raise InvalidValueError("--compare needs at least two files")
        self.size_list()

    def size_list(self) -> list[int]:
        """The sizes of --sizes; ValueError if they are not numbers of pixels."""
        if self.sizes is None:
            return []
        return whole_numbers(self.sizes, "--sizes", "sizes in pixels such as 224,256,320", PIXELS)


def eval_config(*tasks: Task) -> type[MeasureOptions]:
    """The common and the tasks' options as one flat dataclass. tasks: by default, all registered tasks."""
    parts = (task.EvalOptions for task in tasks or registered_tasks())
    return joined("EvalConfig", "A measurement of a trained model.", MeasureOptions, *parts)


EvalConfig = eval_config()
