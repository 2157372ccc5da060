"""Frames of videos: in order, upright, with their times, and with a reason where a video breaks off."""

import sys

import numpy as np
import pytest
from PIL import Image

from films import break_off, brightness, film
from glocal.data import video
from glocal.data.image import UnreadableImageError
from glocal.data.inputs import expanded, inputs_key, plan
from glocal.data.video import frames


def reason(path, count=0):
    """Why a video cannot be read, after `count` frames; None: after some."""
    *before, last = frames(path)
    assert [frame.number for frame in before] == list(range(len(before) if count is None else count))
    with pytest.raises(UnreadableImageError) as caught:
        last.load()
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


@pytest.mark.parametrize("ending", ["mp4", "mov", "avi", "mkv", "mpg", "ts"])
def test_frames_in_order_with_their_times(tmp_path, ending):
    path = film(tmp_path / f"a.{ending}")
    found = list(frames(path))
    assert [brightness(frame.load()) for frame in found] == list(range(10))
    assert [frame.number for frame in found] == list(range(10))
    assert [frame.seconds for frame in found] == pytest.approx([number / 25 for number in range(10)], abs=1e-3)
    assert str(found[3]) == f"{path}: frame 3"
    assert found[0].load().size == (64, 48)
    assert found[0].load().mode == "RGB"


def test_one_of_some_frames(tmp_path):
    found = list(frames(film(tmp_path / "a.mp4"), every=4))
    assert [frame.number for frame in found] == [0, 4, 8]
    assert [brightness(frame.load()) for frame in found] == [0, 4, 8]
    assert [frame.seconds for frame in found] == pytest.approx([0, 0.16, 0.32])


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_frames_are_upright(tmp_path, rotation):
    """As Pillow turns: by the degrees that the video says, against the clock."""
    *_, plain = frames(film(tmp_path / "a.mp4", 3))
    *_, turned = frames(film(tmp_path / "b.mp4", 3, rotation=rotation))
    assert np.array_equal(turned.load(), plain.load().rotate(rotation, expand=True))


def test_frames_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(video, "_upright", lambda frame: made.append(frame) or Image.new("RGB", (8, 8)))
    found = frames(film(tmp_path / "a.mp4"))
    next(found), next(found)
    assert len(made) == 2
    found.close()


class TestBroken:
    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "the file is empty"),
            (b"no video" * 100, "cannot be read as a video (Invalid data"),
            (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n", "cannot be read as a video"),
            (b"ffconcat version 1.0\nfile '{other}'\n", "cannot be read as a video"),
        ],
        ids=["empty", "text", "a playlist", "a list of files"],
    )
    def test_what_is_no_video(self, tmp_path, content, why):
        film(tmp_path / "other.mp4", 2)
        (tmp_path / "a.mp4").write_bytes(content.replace(b"{other}", b"other.mp4"))
        assert reason(str(tmp_path / "a.mp4")).startswith(why)

    def test_a_sound(self, tmp_path):
        import av

        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
        assert reason(str(tmp_path / "a.mkv")) == "no video in it that can be decoded"

    @pytest.mark.parametrize(("name", "why"), [("none.mp4", "no such file"), ("folder.mp4", "not a file")])
    def test_no_file(self, tmp_path, name, why):
        (tmp_path / "folder.mp4").mkdir()
        assert reason(str(tmp_path / name)) == why

    def test_the_frames_before_the_break_are_kept(self, tmp_path, monkeypatch):
        break_off(monkeypatch, 4, "the fifth\nis broken")
        path = film(tmp_path / "a.mp4")
        assert reason(path, 4) == "the frames from 4 on cannot be read (the fifth is broken)"

    def test_a_video_that_is_cut_off(self, tmp_path, caplog):
        path = film(tmp_path / "a.mp4", options={"movflags": "faststart"})
        content = (tmp_path / "a.mp4").read_bytes()
        (tmp_path / "a.mp4").write_bytes(content[: len(content) * 3 // 4])
        found = [frame for frame in frames(path) if frame.image is not None]
        assert 1 < len(found) < 10
        assert [brightness(frame.load()) for frame in found[:-1]] == list(range(len(found) - 1))
        assert f"{path} says that it has 10 frames, and " in caplog.text

    @pytest.mark.parametrize("seed", range(12))
    def test_damage_ends_in_frames_or_a_reason(self, tmp_path, seed):
        random = np.random.RandomState(seed)
        path = film(tmp_path / "a.mp4", 4)
        content = np.frombuffer((tmp_path / "a.mp4").read_bytes(), np.uint8).copy()
        places = random.randint(0, len(content), (3, 40)[seed % 2])
        content[places] = random.randint(0, 256, len(places))
        (tmp_path / "a.mp4").write_bytes(content[: random.randint(1, len(content) + 1)].tobytes())
        for frame in frames(path):
            assert frame.image is not None or frame.reason

    def test_frames_of_too_many_pixels(self, tmp_path, monkeypatch):
        path = film(tmp_path / "a.mp4")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 // 2)
        assert len(list(frames(path))) == 10
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 // 2 - 1)
        assert reason(path) == "more pixels than Pillow's limit against decompression bombs"

    def test_a_later_frame_of_too_many_pixels(self, tmp_path, monkeypatch):
        """A stream whose frames grow: two videos of MPEG's, one after the other."""
        film(tmp_path / "small.mpg", 3, codec="mpeg2video")
        film(tmp_path / "large.mpg", 2, size=(480, 640), codec="mpeg2video")
        path = tmp_path / "a.mpg"
        path.write_bytes((tmp_path / "small.mpg").read_bytes() + (tmp_path / "large.mpg").read_bytes())
        assert {frame.load().size for frame in frames(path)} == {(64, 48), (640, 480)}
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 240 * 640 - 1)
        assert "decompression bombs" in reason(str(path), None)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64)
        monkeypatch.setattr(video, "EDGES", 20_000)  # then FFmpeg's limit comes first
        assert "on cannot be read" in reason(str(path), None)


class TestInputs:
    def test_a_video_is_a_shard(self, tmp_path):
        path = film(tmp_path / "b.mp4", 4)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        shards = plan([path, str(tmp_path / "a.png")], 10, "image")
        assert [(shard.files, shard.count, shard.stored) for shard in shards] == [
            ([str(tmp_path / "a.png")], 1, False),
            ([path], None, False),
        ]
        assert all(shard.with_videos for shard in shards)
        assert [frame.number for frame in shards[1].images("image", every=3)] == [0, 3]

    def test_files_and_frames_in_their_order(self, tmp_path):
        path = film(tmp_path / "b.MP4", 2)
        assert list(map(str, expanded(["a.png", path, "c.png"], 1))) == [
            "a.png",
            f"{path}: frame 0",
            f"{path}: frame 1",
            "c.png",
        ]

    def test_another_video_of_the_name_is_another_input(self, tmp_path):
        path = film(tmp_path / "a.mp4", 2)
        key = inputs_key(plan([path], 10, "image"))
        film(tmp_path / "a.mp4", 5)
        assert inputs_key(plan([path], 10, "image")) != key

    def test_one_line_without_the_extra(self, tmp_path, monkeypatch):
        path = film(tmp_path / "a.mp4", 2)
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError, match=r"videos need PyAV: pip install 'glocal\[video\]'"):
            plan([path], 10, "image")
