"""Files of predictions beside the table: pictures, and the kinds of files that a task writes."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from glocal.data.image import find_images
from glocal.data.preprocessing import Preprocessing
from glocal.data.raster import check_georeferenced
from glocal.data.video import is_video
from glocal.deploy.config import PredictConfig
from glocal.deploy.film import with_film
from glocal.deploy.pictures import TakenFrames, with_pictures
from glocal.errors import ExistingPathError, InvalidValueError
from glocal.files import check_target, make_folder
from glocal.tasks.task import Result, Task, Trained, Writer

CHECKED = 100  # images whose coordinates are looked for before the first is computed


def check_places(config: PredictConfig) -> None:
    """Raise OSError for a place of --save that holds something, without --overwrite. It needs no model."""
    for kind, place in config.saved.items():
        if config.overwrite or not Path(place).exists():
            continue
        if not Path(place).is_dir():
            raise ExistingPathError(f"--save {kind}={place}: the file exists, --overwrite replaces it")
        if any(Path(place).iterdir()):
            raise ExistingPathError(f"--save {kind}={place}: the folder is not empty, --overwrite writes into it")


def writers_of(config: PredictConfig, task: Task) -> list[tuple[Writer, Path]]:
    """The writers of --save, with their places.

    Raises ValueError for kinds that the task does not have and for files of another ending, OSError for places that
    cannot be written to.
    """
    found, files = [], [] if config.output is None else [Path(config.output).resolve()]
    for kind, place in config.saved.items():
        label, path = f"--save {kind}={place}", Path(place)
        writer = task.writers.get(kind)
        if writer is None:
            kinds = ", ".join(task.writers) or "none"
            raise InvalidValueError(f"--save {kind}: the kinds of files of {task.name} are {kinds}")
        if writer.endings:
            if path.suffix.lower() not in writer.endings:
                raise InvalidValueError(f"{label}: the file must end with {' or '.join(writer.endings)}")
            check_target("--save", path)
        if path.resolve() in files:
            raise InvalidValueError(f"{label}: another option writes there, too")
        files.append(path.resolve())
        if writer.georeferenced:
            check_georeferenced(label, find_images(config.images)[:CHECKED])
        found.append((writer, path))
    return found


def with_files(
    results: Iterator[Result],
    pictures: str | None,
    writers: list[tuple[Writer, Path]],
    trained: Trained,
    frames: TakenFrames | None = None,
) -> Iterator[Result]:
    """Pass results on; write the files that --pictures and --save ask for.

    Close it if it is not read to the end, so that no file is left in part. writers: of `writers_of`.
    frames: those of videos, for their pictures.
    """
    with ExitStack() as stack:
        if pictures is not None and frames is not None and is_video(pictures):
            results = with_film(results, pictures, frames)
            stack.callback(results.close)
        elif pictures is not None:
            results = with_pictures(results, pictures, Preprocessing(**trained.preprocessing).bands, frames)
            stack.callback(results.close)
        for writer, place in writers:
            if not writer.endings:
                make_folder("--save", place)
            results = writer.write(results, place, trained)
            stack.callback(results.close)
        yield from results
