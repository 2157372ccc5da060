import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import glocal.models  # noqa: F401 (registers the models)
from glocal.data import loaders
from glocal.data.batch import Example
from glocal.data.dataset import ImageDataset
from glocal.data.image import StoredImage
from glocal.data.loaders import end_workers, evaluation_loader, training_loader
from glocal.data.preprocessing import MAX_ASPECT, Augmentation, Preprocessing, crop_extreme_aspect
from glocal.data.samples import Samples
from glocal.data.sampling import EvaluationSampler, TrainingSampler, class_balance
from glocal.data.seeds import random_state

PREPROCESSING = Preprocessing((3, 8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PATH = PREPROCESSING.transform()


def TRANSFORM(image, label):
    return Example(PATH(image), label)


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
        (image, label, *_), skipped, name, index = dataset[3]
        assert skipped == f"{samples.images[3]}: not an image"
        assert label not in (3, 4)
        assert (name, index) == (samples.images[label], label)
        assert torch.equal(image, dataset[label].example.image)

    def test_always_by_the_same(self, samples):
        dataset = ImageDataset(samples, TRANSFORM, replace=True)
        assert dataset[3].example.target == dataset[3].example.target

    def test_readable_ones_are_themselves(self, samples):
        dataset = ImageDataset(samples, TRANSFORM, replace=True)
        items = [dataset[index] for index in (0, 5, 9)]
        assert [(item.example.target, item.skipped) for item in items] == [(0, None), (5, None), (9, None)]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_evaluation_leaves_it_out_and_reports_it(self, samples, workers):
        batches = list(evaluation_loader(samples, TRANSFORM, batch_size=4, workers=workers))
        assert [len(batch) for batch in batches] == [3, 3, 2]
        assert [batch.images.shape for batch in batches] == [(3, 3, 8, 8), (3, 3, 8, 8), (2, 3, 8, 8)]
        assert [label for batch in batches for label in batch.targets.tolist()] == [0, 1, 2, 5, 6, 7, 8, 9]
        assert [place for batch in batches for place in batch.indices] == [0, 1, 2, 5, 6, 7, 8, 9]
        assert [name for batch in batches for name in batch.names] == [
            samples.images[place] for place in (0, 1, 2, 5, 6, 7, 8, 9)
        ]
        broken = [f"{samples.images[place]}: not an image" for place in (3, 4)]
        assert [batch.skipped for batch in batches] == [broken[:1], broken[1:], []]

    def test_no_sample_to_replace_it(self, samples):
        item = ImageDataset(samples.subset([3, 4]), TRANSFORM, replace=True)[1]
        assert (item.example, item.skipped) == (None, f"{samples.images[4]}: not an image")

    def test_batch_of_nothing_that_can_be_read(self, samples):
        (batch,) = training_loader(samples.subset([3, 4]), TRANSFORM, batch_size=2, workers=0, seed=0)
        assert len(batch) == 0
        assert len(batch.skipped) == 2


def test_names_of_images():
    stored = StoredImage("archive.tar: a.png", reason="no image")
    samples = Samples(["folder/a.png", np.zeros((8, 8, 3), np.uint8), stored], [0, 0, 0])
    assert [samples.name(index) for index in range(3)] == ["folder/a.png", "image 1", "archive.tar: a.png"]


class TestTrainingLoader:
    def order(self, samples, seed, epochs=2):
        loader = training_loader(samples, TRANSFORM, batch_size=4, workers=0, seed=seed)
        order = []
        for epoch in range(epochs):
            loader.sampler.set_epoch(epoch)
            order += [label for batch in loader for label in batch.targets.tolist()]
        return order

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
        assert [len(batch) for batch in loader] == [10]


class TestTrainingSampler:
    @pytest.mark.parametrize("world", [2, 3, 4])
    @pytest.mark.parametrize("repeats", [1, 3])
    def test_devices_share_the_order_of_one(self, world, repeats):
        one = list(TrainingSampler(50, 12, seed=3, repeats=repeats))
        shares = [
            list(TrainingSampler(50, 12, seed=3, rank=rank, world=world, repeats=repeats)) for rank in range(world)
        ]
        assert [shares[place % world][place // world] for place in range(48)] == one
        assert [len(share) for share in shares] == [48 // world] * world

    @pytest.mark.parametrize("size", [2, 5, 11])
    def test_fewer_samples_than_a_batch_are_shared_equally(self, size):
        """Or one device would wait for a batch that another does not have."""
        shares = [list(TrainingSampler(size, 12, seed=0, rank=rank, world=2)) for rank in range(2)]
        assert [len(share) for share in shares] == [size // 2] * 2
        assert len({index for share in shares for index, _ in share}) == size // 2 * 2

    def test_fewer_samples_than_devices(self):
        with pytest.raises(ValueError, match="3 samples are too few for 4 devices"):
            TrainingSampler(3, 12, seed=0, world=4)

    def test_every_sample_once(self):
        assert sorted(index for index, _ in TrainingSampler(48, 12, seed=0)) == list(range(48))

    def test_every_place_has_a_seed_of_its_own(self):
        seeds = [seed for _, seed in TrainingSampler(48, 12, seed=0)]
        assert len(set(seeds)) == 48

    @pytest.mark.parametrize("done", [0, 12, 48])
    def test_begins_where_a_run_was_stopped(self, done):
        whole, rest = TrainingSampler(48, 12, seed=0), TrainingSampler(48, 12, seed=0)
        rest.begin_at(3, done)
        whole.set_epoch(3)
        assert list(rest) == list(rest) == list(whole)[done:]
        assert len(rest) == 48
        rest.set_epoch(4)
        assert len(list(rest)) == 48

    def test_repeats_follow_each_other_with_other_seeds(self):
        items = list(TrainingSampler(48, 12, seed=0, repeats=3))
        assert len(items) == 48
        for first, second, third in zip(items[::3], items[1::3], items[2::3], strict=True):
            assert first[0] == second[0] == third[0]
            assert len({first[1], second[1], third[1]}) == 3
        assert len({index for index, _ in items}) == 16

    def test_balance_draws_classes_equally_often(self):
        labels = [0] * 900 + [1] * 90 + [2] * 10
        drawn = [labels[index] for index, _ in TrainingSampler(1000, 10, seed=0, weights=class_balance(labels))]
        assert np.bincount(drawn) == pytest.approx([333, 333, 333], abs=60)


class TestEpochsOfSteps:
    """Stretches of an endless sequence of passes."""

    @staticmethod
    def epochs(count, *args, begin=0, **kwargs):
        """The items of successive epochs, of each."""
        sampler, found = TrainingSampler(*args, **kwargs), []
        for epoch in range(begin, begin + count):
            sampler.set_epoch(epoch)
            found.append(list(sampler))
            assert len(sampler) == len(found[-1])
        return found

    def items(self, *args, **kwargs):
        """The items of successive epochs, of all together."""
        return [item for epoch in self.epochs(*args, **kwargs) for item in epoch]

    @pytest.mark.parametrize(("size", "steps"), [(50, 3), (7, 2), (1, 5), (12, 1), (500, 2)])
    def test_every_sample_once_before_any_comes_again(self, size, steps):
        items = self.items(9, size, 6, seed=0, steps=steps)
        assert len(items) == 9 * steps * 6
        indices = [index for index, _ in items]
        passes = [indices[place : place + size] for place in range(0, len(items), size)]
        assert all(sorted(one) == list(range(size)) for one in passes[:-1])
        assert len(set(passes[-1])) == len(passes[-1])
        assert len({seed for _, seed in items}) == len(items)
        if size == 50:
            assert passes[0] != passes[1]

    def test_the_length_of_an_epoch_does_not_change_the_sequence(self):
        assert self.items(6, 50, 6, seed=0, steps=5) == self.items(3, 50, 6, seed=0, steps=10)

    def test_whole_passes_are_the_epochs_without_steps(self):
        assert self.epochs(3, 48, 12, seed=0, steps=4) == self.epochs(3, 48, 12, seed=0)

    @pytest.mark.parametrize("options", [{}, {"repeats": 3}, {"weights": torch.arange(50.0)}], ids=list)
    @pytest.mark.parametrize("world", [2, 3])
    def test_devices_share_the_order_of_one(self, options, world):
        one = self.epochs(4, 50, 12, seed=3, steps=5, **options)
        shares = [self.epochs(4, 50, 12, seed=3, steps=5, rank=rank, world=world, **options) for rank in range(world)]
        for epoch in range(4):
            assert [shares[place % world][epoch][place // world] for place in range(60)] == one[epoch]

    @pytest.mark.parametrize("epoch", [0, 3])
    def test_begins_where_a_run_was_stopped(self, epoch):
        (whole,) = self.epochs(1, 50, 12, seed=0, steps=5, begin=epoch)
        rest = TrainingSampler(50, 12, seed=0, steps=5)
        rest.begin_at(epoch, 24)
        assert list(rest) == whole[24:]

    def test_repeats_follow_each_other(self):
        items = self.items(5, 50, 6, seed=0, steps=5, repeats=3)
        assert [index for index, _ in items[::3]] == [index for index, _ in items[2::3]]
        assert sorted(index for index, _ in items[::3]) == list(range(50))

    def test_rare_samples_are_drawn_as_often_as_their_weights_say(self):
        labels = [0] * 90 + [1] * 9 + [2]
        items = self.items(3, 100, 10, seed=0, steps=40, weights=class_balance(labels))
        drawn = [labels[index] for index, _ in items]
        assert np.bincount(drawn) == pytest.approx([400, 400, 400], abs=80)

    def test_no_sample(self):
        with pytest.raises(ValueError, match="0 samples are too few"):
            TrainingSampler(0, 12, seed=0, steps=5)


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (2, 4)])
def test_evaluation_shares_are_equally_long_and_complete(size, world):
    shares = [list(EvaluationSampler(size, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(index for share in shares for index in share if index is not None) == list(range(size))


class TestRandomState:
    def draw(self):
        return random.random(), np.random.rand(), torch.rand(1).item()

    def test_seed_decides(self):
        with random_state(5):
            first = self.draw()
        with random_state(5):
            assert self.draw() == first
        with random_state(6):
            assert all(a != b for a, b in zip(self.draw(), first, strict=True))

    def test_what_was_before_comes_back(self):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        expected = self.draw()
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        with random_state(5):
            self.draw()
        assert self.draw() == expected

    def test_image_is_changed_as_its_seed_says_in_any_process(self, samples):
        path = PREPROCESSING.training_transform(Augmentation(0.1, 0.5, 0.5, 0.4, "rand-m9-mstd0.5", 1.0))

        def transform(image, label):
            return Example(path(image), label)

        alone = {seed: ImageDataset(samples, transform)[(5, seed)].example.image for seed in (1, 2)}
        assert not torch.equal(alone[1], alone[2])
        torch.manual_seed(3)
        assert torch.equal(ImageDataset(samples, transform)[(5, 1)].example.image, alone[1])
        batches = [
            [batch.images for batch in training_loader(samples, transform, 4, workers=workers, seed=0)]
            for workers in (0, 2)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_outlive_the_signals_of_a_job(samples, number):
    loader = training_loader(samples, TRANSFORM, batch_size=2, workers=2, seed=0)
    batches = iter(loader)
    next(batches), next(batches)  # one of each worker, so that both are past their start
    workers = batches._workers
    for worker in workers:
        os.kill(worker.pid, number)
    assert len(list(batches)) == 3
    end_workers(loader)
    assert not any(worker.is_alive() for worker in workers)


def test_worker_that_is_terminated_ends_in_the_end(samples, monkeypatch):
    monkeypatch.setattr(loaders, "SECONDS_AFTER_SIGTERM", 0.2)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=wait_as_a_worker, args=(ready,))
    process.start()
    assert ready.wait(10)
    process.terminate()
    process.join(10)
    assert process.exitcode == 0


def wait_as_a_worker(ready):
    loaders._outlive_signals(0)
    ready.set()
    while True:
        time.sleep(0.05)


@pytest.mark.parametrize(("parts", "world"), [(2, 1), (1, 2), (2, 3)])
def test_batch_must_be_shared_equally(samples, parts, world):
    with pytest.raises(ValueError, match=f"--batch-size 7 .* multiple of {parts * world}"):
        training_loader(samples, TRANSFORM, 7, workers=0, seed=0, parts=parts, world=world)


class TestPreprocessing:
    @pytest.mark.parametrize(("size", "crop"), [(32, 1.0), (64, 1.0), (65, 0.9), (224, 0.9)])
    def test_up_to_64_pixels_nothing_is_cropped(self, size, crop):
        assert Preprocessing.of_model(timm.create_model("van_pico", device="meta"), size).crop_pct == crop

    def test_dict_round_trip(self):
        assert Preprocessing(**PREPROCESSING.to_dict()) == PREPROCESSING

    def test_normalises(self):
        tensor = PATH(Image.new("RGB", (20, 10), (255, 0, 255)))
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

    def test_crops_are_wide_or_high_up_to_a_ratio(self):
        place = np.arange(64) * 4
        ramps = np.stack([*np.meshgrid(place, place), np.zeros((64, 64))], -1).astype(np.uint8)  # across, down
        transform = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear").training_transform(
            Augmentation(0.3, 3 / 4, hflip=0, color_jitter=0, auto_augment=None, random_erasing=0)
        )
        random.seed(0)
        crops = [transform(Image.fromarray(ramps)).numpy() for _ in range(40)]
        ratios = [np.ptp(crop[0].mean(0)) / np.ptp(crop[1].mean(1)) for crop in crops]
        assert 0.7 < min(ratios) < 0.85
        assert 1.18 < max(ratios) < 1.43

    def test_augmentation_that_is_off_changes_nothing_but_size(self):
        image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8, 3), dtype=np.uint8))
        off = Augmentation(crop_scale=1, crop_ratio=1, hflip=0, color_jitter=0, auto_augment=None, random_erasing=0)
        assert torch.equal(PREPROCESSING.training_transform(off)(image), PATH(image))
