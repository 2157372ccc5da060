"""Files of the images with the results drawn on them."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from glocal.data.bands import Bands
from glocal.data.image import read_image
from glocal.data.raster import Raster, as_picture
from glocal.data.tiles import large_images
from glocal.data.video import Frame
from glocal.files import make_folder, numbered_name, write_atomically
from glocal.tasks.drawing import LEAST, readable
from glocal.tasks.task import Result

MOST_PIXELS = 50_000_000  # of a picture that is as large as its image
MOST = 4096  # pixels of a side of another picture


class TakenFrames:
    """The frames of videos that a predictor has taken, until their results are there: two batches at most."""

    def __init__(self):
        self._frames: deque[Frame] = deque()

    def passing(self, images: Iterable) -> Iterator:
        """Pass images on, and keep those that are frames."""
        for image in images:
            if isinstance(image, Frame):
                self._frames.append(image)
            yield image

    def of(self, result: Result) -> Image.Image | None:
        """The image of a result, if it is a frame. Results are asked for in the order of the images, each once."""
        if self._frames and self._frames[0].name == result.source:
            return self._frames.popleft().image
        return None


def with_pictures(
    results: Iterable[Result], folder: str, bands: Bands | None = None, frames: TakenFrames | None = None
) -> Iterator[Result]:
    """Pass results on; write each image with its result drawn on it to the folder, as a PNG file.

    bands: that the model takes; None: the images are RGB. frames: those of videos; None: there are none.

    Raises NotADirectoryError if the folder is a file, OSError if it cannot be written to.
    """
    make_folder("--pictures", folder)
    for number, result in enumerate(results):
        frame = None if frames is None else frames.of(result)
        if result.error is None:
            picture = drawn(result, _read(result.source, bands) if frame is None else frame)
            name = numbered_name(number, result.source, ".png")
            write_atomically(Path(folder) / name, partial(picture.save, format="PNG"))
        yield result


def drawn(result: Result, image: Image.Image) -> Image.Image:
    """The image with its result drawn on it; a small one enlarged, a very large one reduced, with the text below."""
    if min(image.size) >= LEAST and image.width * image.height <= MOST_PIXELS:
        return result.draw(image)
    return result.captioned(readable(image, most=MOST))


def _read(path: str, bands: Bands | None) -> Image.Image:
    with large_images():  # the file is known: its result is there
        return read_image(path) if bands is None else as_picture(Raster(path, bands).load())
