"""The folder that a run writes: which files are its own, and what may happen to those of an earlier run."""

from dataclasses import asdict
from pathlib import Path

import yaml
from PIL import Image

from glocal.data.source import DataSource
from glocal.tasks.checkpoint import FILE_NAME
from glocal.training.config import TrainConfig

BEST = FILE_NAME
LAST = "last.ckpt"
METRICS = "metrics.csv"
CONFIG = "config.yaml"
LOG = "train.log"
SAMPLES = "samples"
SAMPLE_PATTERN = "*_label-*.png"


def existing_run(folder: Path) -> list[Path]:
    """The files in `folder` that a run has written."""
    files = [folder / name for name in (BEST, LAST, METRICS, CONFIG, LOG) if (folder / name).is_file()]
    return files + sorted((folder / SAMPLES).glob(SAMPLE_PATTERN))


def check_output(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError for a folder that holds a run, unless it may be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--output {folder} is a file, a folder is needed")
    if existing_run(folder) and not overwrite:
        raise FileExistsError(f"{folder} holds a run already: give another --output, or --overwrite to replace it")


def start_output(folder: Path, config: TrainConfig) -> None:
    """Make the folder, remove the files of an earlier run from it and nothing else, and write the run's arguments.

    `glocal train --config config.yaml --overwrite` repeats the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in existing_run(folder):
        file.unlink()
    arguments = {name: value for name, value in asdict(config).items() if name != "overwrite"}
    (folder / CONFIG).write_text(yaml.safe_dump(arguments, sort_keys=False), encoding="utf-8")


def write_samples(folder: Path, source: DataSource) -> list[Path]:
    """Write one held-out image per class of an embedded set, the true class in its name; none for a folder's."""
    val = source.splits["val"]
    if isinstance(val.images[0], str):
        return []
    files = []
    for label, name in enumerate(source.class_names):
        index = val.labels.index(label)
        path = folder / SAMPLES / f"{source.name}-{index:04d}_label-{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(val.images[index]).save(path)
        files.append(path)
    return files
