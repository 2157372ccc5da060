"""What the tests of every format of objects need: files of images with their labels, and what is read of them."""

import os

import pytest
from PIL import Image

from glocal.data.samples import Opening
from pictures import save


class Reads:
    """What a format reads of a data set. The data is opened as a whole: no part is held out."""

    def __init__(self, one):
        self.one = one

    def open_all(self, data, **args):
        return self.one.open_evaluation(str(data), Opening(args=args), None)

    def objects(self, data, place=0, split="all", **args):
        return self.open_all(data, **args).splits[split].labels[place]

    def notes(self, data, **args):
        return "\n".join(self.open_all(data, **args).notes)

    def refused(self, data, reason, **args):
        with pytest.raises((ValueError, OSError), match=reason):
            self.open_all(data, **args)


def write_pairs(images, labels, texts, ending, size):
    """Write an image, and beside it a text in the folder of labels, by stem; None for an image without a text."""
    for stem, text in texts.items():
        save(images / f"{stem}.png", Image.new("RGB", size[::-1]))
        if text is not None:
            file = labels / f"{stem}{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


def stems(samples):
    return [os.path.splitext(os.path.basename(image))[0] for image in samples.images]
