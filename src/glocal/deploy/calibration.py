"""Images for the calibration of int8: they give the ranges of the model's values."""

from itertools import islice
from pathlib import Path

import numpy as np

from glocal.data.batch import Example
from glocal.data.formats import class_folders
from glocal.data.image import find_images
from glocal.data.loaders import evaluation_loader
from glocal.data.open import format_of, open_for_evaluation
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import Samples
from glocal.errors import InvalidValueError
from glocal.tasks.registry import all_formats


def calibration_images(data: str, count: int, preprocessing: Preprocessing) -> list[np.ndarray]:
    """Up to `count` random images of a data set, always the same, preprocessed: float32 (C, H, W).

    data: a folder of images, with or without subfolders, or data for training, of which the training part is used.
    Unreadable images are left out. Raises ValueError if no image is readable.
    """
    formats = all_formats()
    if Path(data).is_dir() and format_of(data, formats) is class_folders:
        samples = _shuffled(find_images([data]))
    else:
        splits = open_for_evaluation(data, formats=formats)[0].splits
        samples = splits.get("train") or next(iter(splits.values()))
        if isinstance(samples, Samples):
            samples = _shuffled(samples.images)
    prepare = preprocessing.transform()
    images = (
        image.numpy()
        for batch in evaluation_loader(samples, lambda image, annotation: Example(prepare(image)), 32, workers=0)
        for image in batch.images
    )
    found = list(islice(images, count))
    if not found:
        raise InvalidValueError(f"no image of {data} can be read: int8 needs some for calibration")
    return found


def _shuffled(images: list) -> Samples:
    places = np.random.RandomState(0).permutation(len(images))
    return Samples([images[place] for place in places], [0] * len(places))
