import gzip
import struct

import numpy as np
import pytest
from torchvision.datasets.mnist import read_image_file, read_label_file

from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import Opening


def write(path, array, compress=True):
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


@pytest.fixture(params=[True, False], ids=["gz", "plain"])
def folder(tmp_path, request):
    random = np.random.RandomState(0)
    for name, count in (("train", 12), ("t10k", 5)):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = random.randint(256, size=(count, 28, 28)).astype(np.uint8)
        write(tmp_path / f"{name}-images-idx3-ubyte", images, request.param)
        write(tmp_path / f"{name}-labels-idx1-ubyte", labels, request.param)
    return tmp_path


def test_reads_what_torchvision_reads(folder):
    source = open_for_training(str(folder))
    for split, name in (("train", "train"), ("val", "t10k")):
        samples = source.splits[split]
        for file in folder.glob(f"{name}-*.gz"):
            file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        images = read_image_file(str(folder / f"{name}-images-idx3-ubyte")).numpy()
        assert samples.labels == read_label_file(str(folder / f"{name}-labels-idx1-ubyte")).tolist()
        for index, image in enumerate(images):
            loaded = samples.load(index)
            assert loaded.mode == "RGB"
            assert all(np.array_equal(channel, image) for channel in np.asarray(loaded).transpose(2, 0, 1))


def test_what_it_says_of_itself(folder):
    source, split = open_for_evaluation(str(folder))
    assert split == "val"
    assert source.class_names == ["0", "1", "2"]
    assert source.img_size == 32
    assert source.splits["train"].in_memory
    with pytest.raises(ValueError, match="--val-fraction does not apply"):
        open_for_training(str(folder), Opening(val_fraction=0.2))
    with pytest.raises(ValueError, match=r"--group does not apply to .*: its split is fixed"):
        open_for_training(str(folder), Opening(group="a"))


def damage(folder, name, change):
    path = next(folder.glob(f"{name}*"))
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    content = change(content)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images", lambda content: content[:-1], "should hold 9408 values, it holds 9407"),
        ("train-images", lambda content: content[:7], "is not an idx file of bytes with 3 dimensions"),
        ("train-labels", lambda content: b"\0\0\x0d\1" + content[4:], "is not an idx file of bytes with 1 dim"),
        ("t10k-labels", lambda content: b"\0\0\x08\1" + struct.pack(">I", 1) + b"\2", "5 images and 1 labels of t10k"),
        ("train-labels", lambda content: content.replace(b"\1", b"\0"), "of bytes with 1 dim"),
        ("train-labels", lambda content: content[:8] + bytes(12), "training images of class 1 are missing"),
    ],
)
def test_broken_files_are_named(folder, name, change, message):
    damage(folder, name, change)
    with pytest.raises(ValueError, match=message):
        open_for_training(str(folder))


def test_broken_gzip(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(b"\x1f\x8b broken")
    (folder / "train-labels-idx1-ubyte").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="is not a whole gzip file"):
        open_for_training(str(folder))


def test_missing_file(folder):
    next(folder.glob("t10k-labels*")).unlink()
    with pytest.raises(FileNotFoundError, match="has no t10k-labels-idx1-ubyte or"):
        open_for_training(str(folder))
