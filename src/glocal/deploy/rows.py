"""Predictions and embeddings as rows of a table, and predictions as a CSV or JSON file."""

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from glocal.data.image import set_strict
from glocal.data.inputs import Shard, has_videos, plan
from glocal.data.video import is_video
from glocal.deploy.config import ImagesConfig, PredictConfig
from glocal.deploy.pictures import TakenFrames
from glocal.deploy.saving import check_places, with_files, writers_of
from glocal.errors import ExistingPathError, InvalidValueError
from glocal.files import check_target, write_atomically
from glocal.wording import utf8

if TYPE_CHECKING:
    from glocal.deploy.predictor import Embedding, Predictor
    from glocal.tasks.task import Result, Task, Writer

Track = Callable[[Iterable, int | None, str], Iterable]

FILM = ".mp4"  # the ending of a video that is written
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a text that begins so for a formula


@dataclass(frozen=True)
class Written:
    """What was written: the number of files, of images in them, and of unreadable images."""

    files: int
    images: int
    unreadable: int


def load_predictor(config: ImagesConfig, threads: int | None = None) -> "Predictor":
    """The predictor that a config asks for."""
    from glocal.deploy.predictor import Predictor

    tile = getattr(config, "tile", None)
    overlap = getattr(config, "overlap", None)
    overlap = (tile or 0) // 4 if overlap is None else overlap
    predictor = Predictor(
        config.checkpoint, config.model, config.device, config.batch_size, config.engine, threads, tile, overlap
    )
    task = predictor.trained.task
    if isinstance(config, PredictConfig) and not task.ranks and config.top_k != PredictConfig.top_k:
        raise InvalidValueError(f"--top-k is for tasks that rank answers, and {task.name} gives one for an image")
    return predictor


def expect_images(predictor: "Predictor", shards: Iterable[Shard]) -> int | None:
    """Tell a predictor how many images will come; returns the number, None if a shard does not know it."""
    counts = [shard.count for shard in shards]
    if None in counts:
        return None
    predictor.expect(sum(counts))
    return sum(counts)


def result_row(task: "Task", result: "Result", with_videos: bool = False) -> dict:
    """A result as a row: the source, the error, and the task's fields, which are None if the image is unreadable.

    with_videos: whether rows have the number and the time of a frame, which are None of other images.
    """
    values = {name: None if result.error else getattr(result, name) for name in task.fields}
    return {**_source_and_error(result, with_videos), **values}


def embedding_row(embedding: "Embedding", with_videos: bool = False) -> dict:
    return {**_source_and_error(embedding, with_videos), "embedding": embedding.vector}


def _source_and_error(result, with_videos: bool) -> dict:
    error = result.error and " ".join(result.error.reason.split())
    of_video = {"frame": result.frame, "seconds": result.seconds} if with_videos else {}
    return {"source": utf8(result.source), "error": error and utf8(error), **of_video}


def write_table(config: PredictConfig, track: Track = lambda items, total, unit: items) -> Written:
    """Predict the images of all inputs into a file, which appears when it is complete; its ending says CSV or JSON.

    track: see `glocal.deploy.bulk.write_results`. Raises the errors of `plan` and `Predictor`, OSError if the file
    exists (without --overwrite) or cannot be written.
    """
    set_strict(config.strict)
    path = Path(config.output)
    check_target("--output", path)
    if path.exists() and not config.overwrite:
        raise ExistingPathError(f"--output {path} exists: --overwrite replaces it")
    check_places(config)
    shards = plan(config.images, config.shard_size, config.image_column)
    if config.pictures is not None and any(shard.stored for shard in shards):
        raise InvalidValueError("--pictures takes image files, not WebDataset shards and Parquet files")
    with_videos = check_videos(config, [file for shard in shards for file in shard.files])
    predictor = load_predictor(config)
    task = predictor.trained.task
    writers = writers_of(config, task)
    total = expect_images(predictor, shards)
    images = chain.from_iterable(shard.images(config.image_column, config.every) for shard in shards)
    counts = {"images": 0, "unreadable": 0}

    def results() -> Iterator["Result"]:
        with closing(predicted(predictor, images, config, writers, with_videos)) as found:
            for result in track(found, total, "images"):
                counts["images"] += 1
                counts["unreadable"] += result.error is not None
                yield result

    with closing(results()) as found:
        if path.suffix.lower() == ".csv":
            columns = task.columns(min(config.top_k, len(predictor.class_names) or 1))
            write_atomically(path, lambda file: _write_csv(file, task, found, columns, with_videos))
        else:
            write = {".json": _write_json, ".jsonl": _write_json_lines}[path.suffix.lower()]
            write_atomically(
                path, lambda file: write(file, (result_row(task, result, with_videos) for result in found))
            )
    return Written(1, **counts)


def predicted(
    predictor: "Predictor",
    images: Iterable,
    config: PredictConfig,
    writers: "list[tuple[Writer, Path]]",
    with_videos: bool,
) -> Iterator["Result"]:
    """The results of images; writes the files that --pictures and --save ask for. Close it; see `with_files`."""
    if config.pictures is None or not with_videos:
        return with_files(predictor.stream(images, config.top_k), config.pictures, writers, predictor.trained)
    frames = TakenFrames()
    results = predictor.stream(frames.passing(images), config.top_k)
    return with_files(results, config.pictures, writers, predictor.trained, frames)


def check_videos(config: ImagesConfig, files: Sequence[str]) -> bool:
    """Whether there are videos among the files; ValueError if an option needs them, or --pictures a single one."""
    with_videos = has_videos(files)
    if config.every != 1 and not with_videos:
        raise InvalidValueError("--every is for frames of videos, and no input is a video")
    pictures = getattr(config, "pictures", None)
    if pictures is not None and is_video(pictures):
        if Path(pictures).suffix.lower() != FILM:
            raise InvalidValueError(f"--pictures {pictures}: a video must end with {FILM}")
        if len(files) != 1 or not with_videos:
            raise InvalidValueError(
                f"--pictures {pictures}: a video is written of one video, and the inputs are others"
            )
        check_target("--pictures", pictures)
        if Path(pictures).exists() and (not config.overwrite or Path(pictures).samefile(files[0])):
            raise ExistingPathError(f"--pictures {pictures}: the file exists; --overwrite replaces it, but no input")
    return with_videos


def _write_csv(
    file: BinaryIO, task: "Task", results: Iterator["Result"], columns: list[str], with_videos: bool
) -> None:
    writer = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
    writer.writerow(["source", "error", *(["frame", "seconds"] if with_videos else []), *columns])
    for result in results:
        source, error, *of_video = _source_and_error(result, with_videos).values()
        of_video = ["" if value is None else _cell(value) for value in of_video]
        cells = [] if result.error else [_cell(value) for value in task.cells(result)]
        writer.writerow([_text(source), _text(error or ""), *of_video, *(cells or [""] * len(columns))])


def _cell(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _text(text: str) -> str:
    """A text with a quote before it if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _write_json(file: BinaryIO, rows: Iterator[dict]) -> None:
    before = b"[\n"
    for row in rows:
        file.write(before + _json(row))
        before = b",\n"
    file.write(b"[]\n" if before == b"[\n" else b"\n]\n")


def _write_json_lines(file: BinaryIO, rows: Iterator[dict]) -> None:
    for row in rows:
        file.write(_json(row) + b"\n")


def _json(row: dict) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
