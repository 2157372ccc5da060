"""A video of the frames of a video, with the results drawn on them."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from typing import BinaryIO

from PIL import Image

from glocal.data.video import library
from glocal.deploy.pictures import TakenFrames, drawn
from glocal.files import written_atomically
from glocal.tasks.task import Result

CODECS = ("libx264", "mpeg4")  # the first that FFmpeg was built with
TICKS = 1000  # of a second


def with_film(results: Iterable[Result], path: str, frames: TakenFrames) -> Iterator[Result]:
    """Pass results on; write each frame with its result drawn on it to an MP4 file, at the time that it has.

    The file appears when it is complete. Close the iterator if it is not read to the end, so that none is left in part.
    """
    with ExitStack() as stack:
        file = stack.enter_context(written_atomically(path))
        film = None
        for result in results:
            frame = frames.of(result)
            if frame is not None:
                picture = drawn(result, frame)
                film = film or stack.enter_context(Film(file, picture.size))
                film.add(picture, result.seconds)
            yield result


class Film:
    """An MP4 file that is written. size: (width, height) of its frames, less a pixel where these are odd."""

    def __init__(self, file: BinaryIO, size: tuple[int, int]):
        av = library()
        self.size = tuple(max(2, side // 2 * 2) for side in size)
        self._frame = av.VideoFrame
        self._container = av.open(file, "w", format="mp4")
        codec = next(name for name in CODECS if name in av.codecs_available)
        self._stream = self._container.add_stream(codec, rate=25)
        self._stream.width, self._stream.height = self.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._last = -1

    def add(self, picture: Image.Image, seconds: float | None) -> None:
        """Add a frame, cropped or filled up with black at the right and bottom; each is later than the one before."""
        if picture.size != self.size:
            canvas = Image.new("RGB", self.size)
            canvas.paste(picture, (0, 0))
            picture = canvas
        frame = self._frame.from_image(picture)
        self._last = max(self._last + 1, 0 if seconds is None else round(seconds * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *error) -> None:
        if error[0] is None:
            self._container.mux(self._stream.encode())
        self._container.close()
