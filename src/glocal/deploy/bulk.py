"""Predictions or embeddings of many images as Parquet files, one complete file per shard of the inputs."""

import hashlib
import logging
import re
from pathlib import Path
from typing import Literal

import msgspec

from glocal.data.inputs import Shard, inputs_key, plan
from glocal.deploy.config import EmbedConfig, PredictConfig
from glocal.deploy.parts import part_name, write_shard
from glocal.deploy.rows import Track, Written, check_videos, expect_images, load_predictor
from glocal.errors import InvalidValueError, MissingExtraError, NotAFolderError
from glocal.files import write_atomically
from glocal.tasks.checkpoint import find_checkpoint, read_info
from glocal.wording import quoted

try:
    from pyarrow import parquet
except ImportError:
    raise MissingExtraError("Parquet files need pyarrow: pip install 'glocal[parquet]'") from None

log = logging.getLogger(__name__)

PLAN = "_plan.json"  # readers of a folder of Parquet files skip names that begin with _
OLD_PLAN = "plan.json"
LARGEST_PLAN = 2**16  # bytes
PART = re.compile(r"part-\d{5,}\.parquet")


def write_results(config: PredictConfig | EmbedConfig, track: Track = lambda items, total, unit: items) -> Written:
    """Predict or embed the images of all inputs into `config.output`, one Parquet file per shard.

    Shards of the same run whose file is in the folder are not computed again. track: passes items on and shows the
    progress, see `glocal.cli.output.track`.

    Raises the errors of `plan` and `Predictor`, ValueError if the folder holds the results of another run, RuntimeError
    if the work on a cluster fails.
    """
    if config.ray:
        from glocal.deploy.cluster import write_on_cluster  # first: it raises an error if Ray is not installed
    folder = Path(config.output)
    shards = plan(config.images, config.shard_size, config.image_column)
    check_videos(config, [file for shard in shards for file in shard.files])
    run = _run_of(config, shards)
    finished = _finished_parts(folder, run, config.overwrite)
    todo = [shard for shard in shards if part_name(shard.number) not in finished]
    if finished:
        log.warning("resumed: %d of %d shards are there already", len(finished), len(shards))
    predictor = None if config.ray or not todo else load_predictor(config)
    _begin(folder, run, finished)
    try:
        if config.ray and todo:
            for _ in track(write_on_cluster(config, todo), len(todo), "shards"):
                pass
        elif predictor is not None:
            expect_images(predictor, todo)
            for shard in todo:
                write_shard(predictor, config, shard, track, f"images of shard {shard.number + 1} of {len(shards)}")
    finally:
        _remove_temporary(folder)
    counts = [_count(folder / part_name(shard.number)) for shard in shards]
    return Written(len(shards), sum(images for images, _ in counts), sum(unreadable for _, unreadable in counts))


def _count(part: Path) -> tuple[int, int]:
    """The number of rows of a file, and the number of rows with an error."""
    about = parquet.read_metadata(part)
    errors = about.num_columns - 1
    empty = sum(about.row_group(group).column(errors).statistics.null_count for group in range(about.num_row_groups))
    return about.num_rows, about.num_rows - empty


class Run(msgspec.Struct, omit_defaults=True, rename=lambda name: name.replace("_", " ")):
    """What all results of a run have in common. Messages show the names. The file in a folder may be from anybody."""

    command: Literal["embed", "predict"]
    images: str
    model: str | None
    checkpoint: str | None
    shard_size: int
    image_column: str
    top_k: int | None
    every: int = 1  # left out by versions that read no videos


def _run_of(config: PredictConfig | EmbedConfig, shards: list[Shard]) -> Run:
    path = find_checkpoint(config.checkpoint) if config.checkpoint is not None else None
    info = read_info(path) if path is not None else None
    return Run(
        command="embed" if isinstance(config, EmbedConfig) else "predict",
        images=inputs_key(shards),
        model=config.model if info is None else info.model,
        checkpoint=None if path is None else _content_key(path),
        shard_size=config.shard_size,
        image_column=config.image_column,
        top_k=getattr(config, "top_k", None),
        every=config.every,
    )


def _content_key(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _finished_parts(folder: Path, run: Run, overwrite: bool) -> set[str]:
    """The names of the finished files of this run; ValueError if the folder holds the files of another run."""
    if folder.exists() and not folder.is_dir():
        raise NotAFolderError(f"--output {folder}: this is a file, not a folder")
    finished = _parts(folder)
    if not finished:
        return finished
    known = _known_run(folder, finished)
    if overwrite:
        return set()
    changed = [name.replace("_", " ") for name in Run.__struct_fields__ if getattr(known, name) != getattr(run, name)]
    if changed:
        what = " and ".join(changed)
        raise InvalidValueError(f"{folder} holds the results of a run with another {what}; --overwrite begins anew")
    return finished


def _known_run(folder: Path, finished: set[str]) -> Run:
    """The run whose results a folder holds, also of earlier versions; ValueError if no file describes it."""
    for name in (PLAN, OLD_PLAN):
        try:
            with open(folder / name, "rb") as file:
                content = file.read(LARGEST_PLAN + 1)
            return msgspec.json.decode(content, type=Run)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError, RecursionError):
            raise InvalidValueError(f"{folder / name} does not say what run this is: choose another folder") from None
    raise InvalidValueError(f"{folder} holds {quoted(sorted(finished), 2)} without {PLAN}: choose another folder")


def _parts(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("part-*.parquet") if PART.fullmatch(file.name)}


def _begin(folder: Path, run: Run, keep: set[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _remove_temporary(folder)
    for name in _parts(folder) - keep:
        (folder / name).unlink()
    write_atomically(folder / PLAN, msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    (folder / OLD_PLAN).unlink(missing_ok=True)


def _remove_temporary(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed."""
    for file in folder.glob(".part-*.tmp"):
        file.unlink(missing_ok=True)
