"""Videos that tests write: each frame is of one brightness, so that it can be told."""

import av
import numpy as np

from glocal.data import video

STEP = 20  # of the brightness from frame to frame


def film(path, count=10, size=(48, 64), rate=25, rotation=0, codec="mpeg4", options=None):
    """Write a video of `count` frames of (height, width) pixels, the left half of which is darker."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            pixels = np.full((*size, 3), number * STEP % 240, np.uint8)
            pixels[:, : size[1] // 2] //= 2
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def brightness(image):
    """The number of a frame, by its right upper corner."""
    return round(np.asarray(image)[2:8, -8:-2].mean() / STEP)


def break_off(monkeypatch, count, message="broken"):
    """Let videos be broken after `count` frames."""
    whole, made = video._upright, []

    def upright(frame):
        made.append(frame)
        if len(made) > count:
            raise ValueError(message)
        return whole(frame)

    monkeypatch.setattr(video, "_upright", upright)
