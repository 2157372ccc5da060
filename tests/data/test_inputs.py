"""Images without labels are found in files, folders, WebDataset shards and Parquet files, and cut into shards."""

import io
import tarfile

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from glocal.data.image import UnreadableImageError
from glocal.data.inputs import inputs_key, plan


def png(value):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.png", "b.png", "deeper/c.png", "d.png", "e.png"):
        (folder / name).write_bytes(png(0))
    return folder


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return str(path)


def table(path, column, values, kind=None, rows=2):
    columns = {"id": pyarrow.array(range(len(values))), column: pyarrow.array(values, kind)}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return str(path)


def read(shard, column="image"):
    """The name of every image of a shard with its red value, or why it cannot be read."""
    found = {}
    for image in shard.images(column):
        try:
            found[str(image)] = image.load().getpixel((0, 0))[0]
        except UnreadableImageError as error:
            found[str(image)] = error.reason
    return found


class TestPlan:
    def test_files_in_their_order_in_shards_of_a_size(self, photos):
        shards = plan([str(photos), str(photos / "a.png")], 2, "image")
        names = ["a.png", "b.png", "d.png", "deeper/c.png", "e.png"]
        files = [str(photos / name) for name in names]
        assert [(s.number, s.files, s.count) for s in shards] == [
            (0, files[:2], 2),
            (1, files[2:4], 2),
            (2, files[4:], 1),
        ]

    def test_every_stored_file_is_a_shard(self, photos, tmp_path):
        pytest.importorskip("webdataset", reason="needs the extra [data]")
        (tmp_path / "stored").mkdir()
        one = tar(tmp_path / "stored/a.tar", {"0.png": png(1)})
        two = table(tmp_path / "stored/b.parquet", "image", [png(2), png(3)])
        found = [(s.files, s.count) for s in plan([str(tmp_path / "stored"), str(photos)], 100, "image")]
        assert [files for files, _ in found[1:]] == [[one], [two]]
        assert [count for _, count in found] == [5, None, 2]
        assert [s.files for s in plan([str(tmp_path / "stored/*")], 100, "image")] == [[one], [two]]
        assert [s.files for s in plan([str(tmp_path / "stored/{a..a}.tar")], 100, "image")] == [[one]]

    def test_key_is_of_names_order_and_sizes(self, photos, tmp_path):
        files = [str(photos / "a.png"), str(photos / "b.png")]
        keys = [
            inputs_key(plan(files, 9, "image")),
            inputs_key(plan(files[::-1], 9, "image")),
            inputs_key(plan(files, 1, "image")),
        ]
        for count in (1, 2):
            keys.append(inputs_key(plan([table(tmp_path / "x.parquet", "image", [b"1"] * count)], 9, "image")))
        assert len(set(keys)) == 5
        assert inputs_key(plan(files, 9, "image")) == keys[0]

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("nowhere", "nowhere: no such file"),
            ("*.jpg", r"\*.jpg: no file matches"),
            ("empty", "empty: the folder holds no images"),
            ("none.tar", "1 shard missing"),
            ("none.parquet", "none.parquet: no such file"),
            ("mixed", r"mixed holds images and 'mixed/x.parquet': name the ones or the others"),
            ("text.parquet", "text.parquet cannot be read as a Parquet file: "),
            ("mixed/x.parquet", "has no column 'image': it has 'id', 'photo'; see --image-column"),
        ],
    )
    def test_what_stands_for_nothing(self, tmp_path, monkeypatch, source, message):
        pytest.importorskip("webdataset", reason="needs the extra [data]")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "mixed").mkdir()
        (tmp_path / "mixed/a.png").write_bytes(png(0))
        (tmp_path / "text.parquet").write_text("text")
        table("mixed/x.parquet", "photo", [b""])
        with pytest.raises((OSError, ValueError), match=message):
            plan([source], 100, "image")

    @pytest.mark.parametrize("values", [["text"], [1], [None], [[b"1"]], [{"path": "x"}]], ids=str)
    def test_column_of_something_else(self, tmp_path, values):
        path = table(tmp_path / "x.parquet", "image", values)
        with pytest.raises(ValueError, match=r"the column 'image' holds .*, not images \(bytes, or a struct"):
            plan([path], 100, "image")


class TestTable:
    @pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()], ids=str)
    def test_bytes(self, tmp_path, kind):
        path = table(tmp_path / "x.parquet", "photo", [png(1), None, b"", b"text", png(2)], kind)
        (shard,) = plan([path], 100, "photo")
        names = [f"{path}: row {row}" for row in range(5)]
        expected = [1, "no image", "the file is empty", "not an image", 2]
        assert read(shard, "photo") == dict(zip(names, expected, strict=True))

    def test_struct_of_hugging_face(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(7))
        values = [
            {"bytes": png(1), "path": "x.png"},
            {"bytes": None, "path": str(tmp_path / "a.png")},
            {"bytes": None, "path": None},
            None,
            {"bytes": None, "path": "nowhere.png"},
        ]
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        (shard,) = plan([table(tmp_path / "x.parquet", "image", values, kind)], 100, "image")
        assert list(read(shard).values()) == [1, 7, "no image", "no image", "no such file"]

    def test_broken_in_the_middle(self, tmp_path):
        path = tmp_path / "x.parquet"
        table(path, "image", [png(value) for value in range(200)], rows=50)
        start = parquet.read_metadata(path).row_group(2).column(1).dictionary_page_offset
        content = bytearray(path.read_bytes())
        content[start : start + 200] = bytes(200)
        path.write_bytes(content)
        found = read(*plan([str(path)], 100, "image"))
        (reason,) = (reason for name, reason in found.items() if name == str(path))
        assert reason.startswith(f"the rows from {len(found) - 1} on cannot be read (")
        assert len(found) - 1 >= 64
        assert [found[f"{path}: row {row}"] for row in range(len(found) - 1)] == list(range(len(found) - 1))


class TestTar:
    pytest.importorskip("webdataset", reason="needs the extra [data]")

    @pytest.mark.parametrize("compressed", [False, True])
    def test_first_image_of_every_sample(self, tmp_path, compressed):
        members = {"a/0.cls": b"x", "a/0.png": png(1), "a/0.jpg": b"", "1.txt": b"", "2.png": b"", "3.seg.png": b""}
        path = tar(tmp_path / "x.tar", members | {"4.PNG": png(4)})
        if compressed:
            import gzip

            (tmp_path / "x.tar.gz").write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
            path += ".gz"
        assert read(*plan([path], 100, "image")) == {
            f"{path}: a/0.png": 1,
            f"{path}: 1": "no image among txt",
            f"{path}: 2.png": "the file is empty",
            f"{path}: 3": "no image among seg.png",
            f"{path}: 4.png": 4,
        }

    @pytest.mark.parametrize(
        ("keep", "reason"),
        [(1024 + 600, "unexpected end of data"), (1024 + 300, "it is cut off"), (1024, "it is cut off"), (0, "")],
    )
    def test_cut_off(self, tmp_path, keep, reason):
        path = tar(tmp_path / "x.tar", {"0.png": png(0), "1.png": png(1)})
        whole = (tmp_path / "x.tar").read_bytes()
        (tmp_path / "x.tar").write_bytes(whole[:keep])
        found = read(*plan([path], 100, "image"))
        assert found.pop(path).startswith(f"cannot be read to its end ({reason}")
        assert found == ({f"{path}: 0.png": 0} if keep else {})

    def test_no_tar_file(self, tmp_path):
        (tmp_path / "x.tar").write_text("text" * 500)
        found = read(*plan([str(tmp_path / "x.tar")], 100, "image"))
        assert list(found) == [str(tmp_path / "x.tar")]
