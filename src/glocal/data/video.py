"""Videos: their frames one by one, in memory that does not grow with their length."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from glocal.data.image import StoredImage, UnreadableImageError
from glocal.errors import MissingExtraError
from glocal.wording import one_line

if TYPE_CHECKING:
    from types import ModuleType

    import av

log = logging.getLogger(__name__)

ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
# What FFmpeg may take a file for. It knows playlists too, whose files and addresses it would open.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
EDGES = 1 << 22  # pixels that FFmpeg may add to those of a small frame
TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, eq=False)
class Frame(StoredImage):
    """A frame of a video. number: from 0. seconds: from the video's start; None where it does not say it."""

    number: int | None = None
    seconds: float | None = None
    image: Image.Image | None = None

    def load(self) -> Image.Image:
        return super().load() if self.image is None else self.image


def is_video(path: str | Path) -> bool:
    """Whether a file's name ends as a video's does."""
    return str(path).lower().endswith(ENDINGS)


def library() -> "ModuleType":
    """PyAV; ImportError without the extra video."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("videos need PyAV: pip install 'glocal[video]'") from None
    return av


def frames(path: str | Path, every: int = 1) -> Iterator[Frame]:
    """The frames 0, `every`, 2 · `every`, … of a video, upright and as RGB, one after the other.

    If the video breaks off, the last frame has no image and says why. Raises ImportError without the extra video.
    """
    library()
    path, count = str(path), 0
    try:
        with _opened(path) as stream:
            for frame in stream.container.decode(stream):
                check_size(frame, path)
                if count % every == 0:
                    name, image = f"{path}: frame {count}", _upright(frame)
                    yield Frame(name, number=count, seconds=_seconds(frame, stream), image=image)
                count += 1
            said = stream.frames
        if not count:
            raise UnreadableImageError(path, "a video without frames")
        if count < said:
            log.warning("%s says that it has %s frames, and %s could be read", path, f"{said:,}", f"{count:,}")
    except UnreadableImageError as error:
        yield Frame(path, reason=error.reason)
    except Exception as error:  # of FFmpeg: errors of the system, of values, of memory
        what = f"the frames from {count:,} on cannot be read" if count else "cannot be read as a video"
        yield Frame(path, reason=f"{what} ({one_line(getattr(error, 'strerror', None) or error)})")


@contextmanager
def _opened(path: str) -> Iterator["av.VideoStream"]:
    """The first stream of pictures of a file."""
    if not os.path.isfile(path):
        raise UnreadableImageError(path, "not a file" if os.path.exists(path) else "no such file")
    if not os.path.getsize(path):
        raise UnreadableImageError(path, "the file is empty")
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    with library().open(f"file:{os.path.abspath(path)}", options=options) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.codec_context is None:  # PyAV dies of a stream without a codec
            raise UnreadableImageError(path, "no video in it that can be decoded")
        check_size(stream.codec_context, path)
        # A later frame may be larger. FFmpeg refuses it before it has memory for it; but it counts an edge, too.
        stream.codec_context.options = {"max_pixels": str(2 * most_pixels() + EDGES)}
        stream.codec_context.thread_count = 1  # broken files have crashed FFmpeg's threads
        yield stream


def check_size(picture: "av.VideoFrame | av.VideoCodecContext", path: str) -> None:
    """Raise UnreadableImageError for a frame with more pixels than an image may have."""
    if picture.width * picture.height > most_pixels():
        raise UnreadableImageError(path, "more pixels than Pillow's limit against decompression bombs")


def most_pixels() -> int:
    """Of an image: Pillow warns at its own limit, and refuses from twice as many on."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 2**28)


def _upright(frame: "av.VideoFrame") -> Image.Image:
    image = frame.to_image()
    turn = TURNS.get(round(frame.rotation / 90) % 4)
    return image if turn is None else image.transpose(turn)


def _seconds(frame: "av.VideoFrame", stream: "av.VideoStream") -> float | None:
    """The time of a frame; containers of broadcasts begin at any."""
    if frame.time is None:
        return None
    start = 0 if stream.start_time is None else float(stream.start_time * stream.time_base)
    return frame.time - start
