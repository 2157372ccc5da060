"""The folder that a run writes: which files belong to the run, and what may happen to the files of an earlier run."""

import json
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from glocal import trust
from glocal.errors import ExistingPathError, MissingPathError, PathError
from glocal.files import write_atomically
from glocal.options import read_options
from glocal.tasks.checkpoint import read_info
from glocal.tasks.run_files import BEST, CONFIG, RAW
from glocal.training.config import LoopOptions

if TYPE_CHECKING:
    from glocal.data.samples import DataSource

LAST = "last.ckpt"
METRICS = "metrics.csv"
SUMMARY = "summary.json"  # written last: a run without this file is not finished
LOG = "train.log"
TENSORBOARD = "tensorboard"
SAMPLES = "samples"
SAMPLE_PATTERNS = ("*_label-*.png", "*-[0-9][0-9][0-9][0-9].png")
SAMPLES_WITHOUT_LABEL = 8

# Options that may differ when a run is continued: they say how it runs, not what it computes.
HOW = {"output", "overwrite", "resume", "show_batch", "device", "workers", "save_every_minutes", "max_bad", "loggers"}


def existing_run(folder: Path) -> list[Path]:
    """The files in `folder` that a run has written."""
    names = BEST, RAW, LAST, METRICS, CONFIG, SUMMARY, LOG
    files = [folder / name for name in names if (folder / name).is_file()]
    files += (folder / TENSORBOARD).glob("events.out.tfevents.*")
    return files + sorted(file for pattern in SAMPLE_PATTERNS for file in (folder / SAMPLES).glob(pattern))


def finished(folder: Path) -> bool:
    """Whether the run in `folder` is finished."""
    return (folder / SUMMARY).is_file()


def resolve_run(folder: Path, config: LoopOptions) -> tuple[LoopOptions, Path | None]:
    """The configuration to use, and the file of the state to continue from (None: the run starts anew).

    If the folder holds an unfinished run with the same options, the run continues; with --resume, only the options of
    `config` that differ from their defaults have to be the same. If a run was stopped before it saved anything,
    it starts anew. Any other run in the folder is a FileExistsError, unless --overwrite is given.
    """
    if folder.exists() and not folder.is_dir():
        raise ExistingPathError(f"--output {folder} is a file, a folder is needed")
    if config.resume and not existing_run(folder):
        raise MissingPathError(f"--resume: {folder} holds no run")
    if config.overwrite or not existing_run(folder):
        return config, None
    saved = (folder / BEST).is_file() or (folder / LAST).is_file()
    if not saved and not config.resume:
        return config, None
    if finished(folder) or not (folder / CONFIG).is_file():
        raise ExistingPathError(f"{folder} holds a run already: give another --output, or --overwrite to replace it")
    before = _read_config(folder, type(config))
    given = {field.name: getattr(config, field.name) for field in fields(config)}
    if config.resume:
        default = type(config)()
        given = {name: value for name, value in given.items() if value != getattr(default, name)}
    _refuse_changes(folder, before, given)
    for name in ("data", "data_args", "model", *type(config).MODELS):
        if getattr(before, name, None) != getattr(config, name, None):  # a file of the folder chose it, not the user
            trust.check_option(str(folder / CONFIG), type(config), name, getattr(before, name))
    how = {name: value for name, value in given.items() if name in HOW}
    last = folder / LAST
    return replace(before, **{**how, "output": config.output}), last if last.is_file() else None


def find_run(output: str | None, resume: bool) -> Path | None:
    """The file with the options of the run that --resume continues; None without --resume or without such a run."""
    path = None if output is None else Path(output) / CONFIG
    return path if resume and path is not None and path.is_file() else None


def task_of(folder: Path) -> str | None:
    """The task of the run in `folder`, as the file of its weights names it; None if there is no such file yet."""
    info = read_info(folder / BEST) if (folder / BEST).is_file() else None
    return None if info is None else info.task


def check_unchanged(config: LoopOptions) -> None:
    """Raise FileExistsError if the unfinished run in the output folder computes something else than `config` says."""
    if find_run(config.output, True) is None or finished(Path(config.output)):
        return
    config = config.shrunk() if config.quick else config
    _refuse_changes(Path(config.output), _read_config(Path(config.output), type(config)), asdict(config))


def _read_config(folder: Path, kind: type[LoopOptions]) -> LoopOptions:
    return kind(**read_options(folder / CONFIG, kind, str(folder / CONFIG)))


def _refuse_changes(folder: Path, before: LoopOptions, given: dict) -> None:
    for name, value in given.items():
        if name in HOW or value == getattr(before, name):
            continue
        raise ExistingPathError(
            f"{folder} holds an unfinished run with other options (--{name.replace('_', '-')} "
            f"{getattr(before, name)}, not {value}): give another --output, "
            + ("" if given.get("resume") else "--resume to continue it as it was, ")
            + "or --overwrite to replace it"
        )


def make(folder: Path) -> None:
    """Make the output folder; OSError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PathError(f"--output {folder} cannot be made: {error.strerror}") from None


def start_output(folder: Path, config: LoopOptions, keep: bool = False) -> None:
    """Remove the files of an earlier run from the folder, and no other file; then write the run's options.

    keep: leave the files of the earlier run, because it continues. `glocal train --config config.yaml --overwrite`
    repeats a run.
    """
    if keep:
        return
    for file in existing_run(folder):
        file.unlink()
    arguments = {name: value for name, value in asdict(config).items() if name not in ("overwrite", "resume")}
    write_atomically(folder / CONFIG, yaml.safe_dump(arguments, sort_keys=False).encode())


def write_summary(folder: Path, result) -> None:
    """Write the result of a run (a `TrainResult`). The file marks the run as finished."""
    names = {"unreadable": "unread"}  # the key in files, since version 0.1
    summary = {
        names.get(name, name): value for name, value in vars(result).items() if name not in ("output", "samples")
    }
    write_atomically(folder / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())


def write_samples(folder: Path, source: "DataSource") -> list[Path]:
    """Write some held-out images, if the images are in memory: for labels one per class, with the class in its name."""
    from PIL import Image

    val = source.splits["val"]
    if not val.in_memory:
        return []
    if all(isinstance(label, int) for label in val.labels):
        known = ((label, name) for label, name in enumerate(source.class_names) if label in val.labels)
        chosen = [(val.labels.index(label), f"_label-{name}") for label, name in known]
    else:
        chosen = [(index, "") for index in range(min(len(val), SAMPLES_WITHOUT_LABEL))]
    files = []
    for index, ending in chosen:
        path = folder / SAMPLES / f"{source.name}-{index:04d}{ending}.png"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, partial(Image.fromarray(val.images[index]).save, format="PNG"))
        files.append(path)
    return files
