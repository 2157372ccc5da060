"""The embedded set `digits`: scikit-learn's 1,797 real handwritten digits.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository (the test part).
"""

import numpy as np
from PIL import Image

from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import refuse_to_draw, stratified_split
from glocal.errors import MissingExtraError

NAME = "digits"
SIZE = 32
VAL_FRACTION = 0.2
SPLIT_SEED = 0  # of the fixed split; independent of a run's seed, so that runs can be compared


def matches(data: str) -> bool:
    return data == NAME


def open_training(data: str, how: Opening) -> DataSource:
    refuse_to_draw(data, how, "its split is fixed")
    return _open()


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    return _open()


def _open() -> DataSource:
    """The digits, up-sampled from 8×8 to 32×32 RGB, split 80/20 by class."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("the embedded set digits needs scikit-learn: pip install 'glocal[train]'") from None
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0…16 in the source
    images = [
        np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB"))
        for image in pixels
    ]
    samples = Samples(images, digits.target.tolist())
    train, val = stratified_split(samples.labels, VAL_FRACTION, SPLIT_SEED)
    return DataSource(
        name=NAME,
        class_names=[str(name) for name in digits.target_names],
        splits={"train": samples.subset(train), "val": samples.subset(val)},
        img_size=SIZE,
        hflip=0.0,  # a mirrored digit is no digit
    )
