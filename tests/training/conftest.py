"""A small real data set: three of the handwritten digits, as a folder of PNG files and as shards."""

import io
import tarfile

import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """A folder of 3 classes × 30 images; tests must not change it."""
    root = tmp_path_factory.mktemp("digits_folder")
    digits = load_digits()
    for label, name in enumerate(("zero", "one", "two")):
        (root / name).mkdir()
        for index, image in enumerate(digits.images[digits.target == label][:30]):
            pixels = (image * (255 / 16)).astype("uint8")
            Image.fromarray(pixels).resize((32, 32)).save(root / name / f"{index:02}.png")
    return root


@pytest.fixture(scope="session")
def digits_shards(digits_folder, tmp_path_factory):
    """The same as three tar shards of 30 samples each, every one with all classes; tests must not change them."""
    root = tmp_path_factory.mktemp("digits_shards")
    files = sorted(digits_folder.glob("*/*.png"))
    for shard in range(3):
        write_shard(root / f"digits-{shard}.tar", {file: file.read_bytes() for file in files[shard::3]})
    return root


@pytest.fixture(scope="session")
def masks_folder(digits_folder, tmp_path_factory):
    """The same images, with masks of what is bright in them; tests must not change it."""
    root = tmp_path_factory.mktemp("masks_folder")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for file in digits_folder.glob("*/*.png"):
        image, name = Image.open(file), f"{file.parent.name}-{file.name}"
        image.save(root / "images" / name)
        image.point(lambda value: int(value > 127)).save(root / "masks" / name)
    (root / "classes.txt").write_text("dark\nbright\n")
    return root


def write_shard(path, images):
    """A tar file of samples: images (content by path) with their folders' names as labels."""
    with tarfile.open(path, "w") as tar:
        for file, content in images.items():
            for ending, data in (("cls", file.parent.name.encode()), ("png", content)):
                member = tarfile.TarInfo(f"{file.parent.name}-{file.stem}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
