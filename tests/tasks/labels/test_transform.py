"""An image and its label as the tensors of a batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.geometry import geometry_of
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.tasks.labels.transform import LabelTransform, multi_hot

PREPROCESSING = Preprocessing((3, 8, 8), (0.0,) * 3, (1.0,) * 3, "bilinear")
IMAGE = Image.fromarray(np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3))


@pytest.mark.parametrize(("labels", "target"), [((0, 2), [1, 0, 1]), ((), [0, 0, 0]), ((1,), [0, 1, 0])])
def test_several_labels_become_zeros_and_ones(labels, target):
    assert multi_hot(labels, 3).tolist() == target


def test_a_measurement_takes_the_fixed_path_and_says_where_the_input_lies():
    image, target, geometry, _ = LabelTransform(PREPROCESSING)(IMAGE, 2)
    assert torch.equal(image, PREPROCESSING.transform()(IMAGE))
    assert target == 2
    assert geometry == geometry_of(PREPROCESSING, (16, 12))


def test_a_training_takes_the_random_path():
    augmentation = Augmentation(0.3, 0.75, 0.5, 0.0, None, 0.0)
    transform = LabelTransform(PREPROCESSING, augmentation, target=lambda label: 10 * label)
    torch.manual_seed(0)
    images = [transform(IMAGE, 2) for _ in range(4)]
    assert {example.target for example in images} == {20}
    assert {example.geometry for example in images} == {None}
    assert len({example.image.sum().item() for example in images}) > 1
