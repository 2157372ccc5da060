import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.dataset import ImageDataset, evaluation_loader, training_loader
from glocal.data.preprocessing import MAX_ASPECT, Augmentation, Preprocessing, crop_extreme_aspect
from glocal.data.source import Samples

PREPROCESSING = Preprocessing((3, 8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
TRANSFORM = PREPROCESSING.transform()


@pytest.fixture
def samples(tmp_path):
    """Ten images of ten greys, of which those at 3 and 4 cannot be read."""
    paths = []
    for index in range(10):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (8, 8), (index * 20,) * 3).save(path)
        paths.append(str(path))
    for broken in (3, 4):
        (tmp_path / f"{broken}.png").write_bytes(b"broken")
    return Samples(paths, list(range(10)))


class TestUnreadable:
    def test_training_replaces_it_by_another_sample(self, samples):
        dataset = ImageDataset(samples, TRANSFORM, replace=True)
        image, label, unread = dataset[3]
        assert unread == 3
        assert label not in (3, 4)
        assert torch.equal(image, dataset[label][0])

    def test_always_by_the_same(self, samples):
        dataset = ImageDataset(samples, TRANSFORM, replace=True)
        assert dataset[3][1] == dataset[3][1]

    def test_readable_ones_are_themselves(self, samples):
        dataset = ImageDataset(samples, TRANSFORM, replace=True)
        assert [dataset[index][1:] for index in (0, 5, 9)] == [(0, -1), (5, -1), (9, -1)]

    def test_reason_names_the_file(self, samples):
        reason = ImageDataset(samples, TRANSFORM).reason(3)
        assert samples.images[3] in reason
        assert "not an image" in reason

    @pytest.mark.parametrize("workers", [0, 2])
    def test_evaluation_leaves_it_out_and_reports_it(self, samples, workers):
        labels, unread = [], []
        for images, batch_labels, missing in evaluation_loader(samples, TRANSFORM, batch_size=4, workers=workers):
            assert len(images) == len(batch_labels)
            labels += batch_labels.tolist()
            unread += missing
        assert labels == [0, 1, 2, 5, 6, 7, 8, 9]
        assert unread == [3, 4]

    def test_batch_of_unreadable_files_only(self, samples):
        batches = list(evaluation_loader(samples.subset([3, 4]), TRANSFORM, batch_size=2, workers=0))
        assert [(images.shape, labels.tolist(), unread) for images, labels, unread in batches] == [
            ((0, 3, 8, 8), [], [0, 1])
        ]

    def test_no_sample_to_replace_it(self, samples):
        _, label, unread = ImageDataset(samples.subset([3, 4]), TRANSFORM, replace=True)[1]
        assert (label, unread) == (-1, 1)


class TestTrainingLoader:
    def order(self, samples, seed, epochs=2):
        loader = training_loader(samples, TRANSFORM, batch_size=4, workers=0, seed=seed)
        return [label for _ in range(epochs) for _, labels, _ in loader for label in labels.tolist()]

    def test_seed_decides_the_order(self, samples):
        torch.manual_seed(1)
        first = self.order(samples, seed=0)
        torch.manual_seed(2)
        assert self.order(samples, seed=0) == first
        assert self.order(samples, seed=1) != first

    def test_every_epoch_has_another_order(self, samples):
        order = self.order(samples, seed=0)
        assert order[:8] != order[8:]

    def test_incomplete_batch_is_dropped_unless_it_is_the_only_one(self, samples):
        assert len(self.order(samples, seed=0, epochs=1)) == 8
        loader = training_loader(samples, TRANSFORM, batch_size=64, workers=0, seed=0)
        assert [len(labels) for _, labels, _ in loader] == [10]


class TestPreprocessing:
    def test_dict_round_trip(self):
        assert Preprocessing(**PREPROCESSING.to_dict()) == PREPROCESSING

    def test_normalises(self):
        tensor = TRANSFORM(Image.new("RGB", (20, 10), (255, 0, 255)))
        assert tensor.shape == (3, 8, 8)
        assert torch.allclose(tensor[:, 0, 0], torch.tensor([1.0, -1.0, 1.0]))

    @pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (20000, 20), (7, 13)])
    @pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
    def test_any_image_size(self, size, crop_mode):
        image = Image.new("RGB", size, (255, 255, 255))
        preprocessing = Preprocessing((3, 32, 48), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875, crop_mode)
        tensor = preprocessing.transform()(image)
        assert tensor.shape == (3, 32, 48)
        assert tensor[:, 16, 24].tolist() == pytest.approx([1, 1, 1])
        augmentation = Augmentation(0.1, 0.5, 0.5, 0.4, "rand-m9-mstd0.5", 1.0)
        assert preprocessing.training_transform(augmentation)(image).shape == (3, 32, 48)

    @pytest.mark.parametrize("size", [(64, 20), (320, 20), (20, 319)])
    def test_usual_aspects_are_not_cropped(self, size):
        image = Image.new("RGB", size)
        assert crop_extreme_aspect(image) is image

    def test_middle_of_an_extreme_image_is_seen(self):
        pixels = np.zeros((20, 20000, 3), np.uint8)
        pixels[:, 9980:10020] = 255
        image = crop_extreme_aspect(Image.fromarray(pixels))
        assert image.size == (20 * MAX_ASPECT, 20)
        tensor = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3).transform()(Image.fromarray(pixels))
        assert tensor.min() > 0.9

    def test_augmentation_that_is_off_changes_nothing_but_size(self):
        image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8, 3), dtype=np.uint8))
        off = Augmentation(crop_scale=1, crop_ratio=1, hflip=0, color_jitter=0, auto_augment=None, random_erasing=0)
        assert torch.equal(PREPROCESSING.training_transform(off)(image), TRANSFORM(image))
