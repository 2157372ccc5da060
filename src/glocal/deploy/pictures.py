"""Images with the results on them, as files."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from glocal.data.image import read_image
from glocal.errors import NotAFolderError
from glocal.files import write_atomically
from glocal.tasks.task import Result
from glocal.wording import printable


def with_pictures(results: Iterable[Result], folder: str) -> Iterator[Result]:
    """Pass results on, and write the image file of each with the result drawn on it as a PNG file into the folder.

    The names are those of the images, numbered in their order, as several folders may have files of one name. Raises
    NotADirectoryError for a file in the place of the folder, OSError where it cannot be written to.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise NotAFolderError(f"--pictures {folder} is a file: give a folder")
    place.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(results):
        if result.error is None:
            picture = result.draw(read_image(result.source))
            name = printable(Path(result.source).stem)
            write_atomically(place / f"{number:05}-{name}.png", partial(picture.save, format="PNG"))
        yield result
