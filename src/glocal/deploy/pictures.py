"""Files of the images with the results drawn on them."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from glocal.data.image import read_image
from glocal.files import make_folder, numbered_name, write_atomically
from glocal.tasks.task import Result


def with_pictures(results: Iterable[Result], folder: str) -> Iterator[Result]:
    """Pass results on; write each image with its result drawn on it to the folder, as a PNG file.

    Raises NotADirectoryError if the folder is a file, OSError if it cannot be written to.
    """
    make_folder("--pictures", folder)
    for number, result in enumerate(results):
        if result.error is None:
            picture = result.draw(read_image(result.source))
            name = numbered_name(number, result.source, ".png")
            write_atomically(Path(folder) / name, partial(picture.save, format="PNG"))
        yield result
