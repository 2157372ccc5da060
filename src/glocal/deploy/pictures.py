"""Files of the images with the results drawn on them."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from glocal.data.image import read_image
from glocal.errors import NotAFolderError
from glocal.files import write_atomically
from glocal.tasks.task import Result
from glocal.wording import printable

LONGEST = 100  # bytes of an image's name in a picture's; file systems allow 255 for all


def with_pictures(results: Iterable[Result], folder: str) -> Iterator[Result]:
    """Pass results on; write each image with its result drawn on it to the folder, as a PNG file.

    A file has the image's name after its number, because images of different folders may have the same name. Raises
    NotADirectoryError if the folder is a file, OSError if it cannot be written to.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise NotAFolderError(f"--pictures {folder} is a file: give a folder")
    place.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(results):
        if result.error is None:
            picture = result.draw(read_image(result.source))
            name = printable(Path(result.source).stem).encode()[:LONGEST].decode(errors="ignore")
            write_atomically(place / f"{number:05}-{name}.png", partial(picture.save, format="PNG"))
        yield result
