import io
import json
import pickle
import re
import tarfile
import unicodedata
from itertools import chain, pairwise

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision import transforms

import glocal.data.shard_stream
import glocal.data.shards
from glocal.data.batch import Collate, Example
from glocal.data.image import UnreadableImageError
from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import Opening
from glocal.data.shard_stream import ShardStream
from glocal.tasks.registry import all_formats, find_task

pytest.importorskip("webdataset", reason="needs the extra [data]")
CLASSES = 3


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    """A shuffle buffer much smaller than a worker's part."""
    monkeypatch.setattr(glocal.data.shard_stream, "SHUFFLE_BUFFER", 6)


def png(number):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(content, "PNG")
    return content.getvalue()


def write(path, members):
    """A tar file of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def sample(number, label=None):
    """The members of a sample whose red value is its number, of the class number % CLASSES."""
    label = number % CLASSES if label is None else label
    return [(f"{number:04}.cls", str(label).encode()), (f"{number:04}.png", png(number))]


@pytest.fixture
def make(tmp_path):
    """Writes shards of the given sizes, with samples numbered from `first`; returns their folder."""

    def make(sizes, name="train", first=0):
        for shard, size in enumerate(sizes):
            members = [member for number in range(first, first + size) for member in sample(number)]
            write(tmp_path / f"shards/{name}-{shard:03}.tar", members)
            first += size
        return tmp_path / "shards"

    return make


def samples_of(folder, split="all"):
    return open_for_evaluation(str(folder), split)[0].splits[split]


def red(image):
    """The number of a sample, from its tensor."""
    return round(float(image[0, 0, 0]) * 255)


PATH = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])


def TO_TENSOR(image, label):
    return Example(PATH(image), label)


def noisy(image, label):
    """A transform with random changes from all three libraries in channels 1 and 2."""
    import random

    import numpy as np

    tensor = PATH(image)
    tensor[1] = torch.rand(8, 8) + random.random()
    tensor[2] = float(np.random.rand())
    return Example(tensor, label)


def numbers(stream, workers, batch_size):
    loader = DataLoader(stream, batch_size=batch_size, num_workers=workers, collate_fn=Collate())
    return [[red(image) for image in batch.images] for batch in loader]


def order_of(stream):
    return [red(item.example.image) for item in stream]


def seen(stream):
    """Number, label and reason of every item."""
    shown = []
    for example, reason, *_ in stream:
        shown.append((None, None, reason) if example is None else (red(example.image), example.target, reason))
    return shown


class TestOpening:
    def test_folder_of_train_and_val(self, make):
        make([5, 4])
        source = open_for_training(str(make([3], "val", first=9)))
        assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 9, "val": 3}
        assert source.class_names == ["0", "1", "2"]
        assert not source.splits["train"].in_memory

    @pytest.mark.parametrize(
        "pattern",
        ["train-{000..002}.tar", "train-*.tar", "train-00[0-2].tar", "train-{000..001}.tar::{}/train-002.tar"],
    )
    def test_patterns(self, make, pattern):
        folder = make([5, 4, 3])
        source, split = open_for_evaluation(f"{folder}/{pattern.replace('{}', str(folder))}")
        assert (split, len(source.splits[split])) == ("all", 12)

    @pytest.mark.parametrize("prefix", ["file:", "file://", "pipe:cat "])
    def test_addresses(self, make, prefix):
        folder = make([5, 4])
        source, _ = open_for_evaluation(f"{prefix}{folder}/train-{{000..001}}.tar")
        assert order_of(ShardStream(source.splits["all"], TO_TENSOR)) == list(range(9))

    def test_http(self, make):
        import functools
        import http.server
        import threading

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        folder = make([5, 4])
        (folder / "classes.txt").write_text("cat\ndog\neel\n")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            source, _ = open_for_evaluation(f"http://127.0.0.1:{server.server_port}/train-{{000..001}}.tar")
            assert source.class_names == ["cat", "dog", "eel"]
            assert order_of(ShardStream(source.splits["all"], TO_TENSOR)) == list(range(9))
        finally:
            server.shutdown()
            server.server_close()

    @pytest.mark.parametrize(
        ("train", "val"),
        [
            ("Train", "Val"),
            ("training", "dev"),
            ("photos_train_set", "photos_valid_set"),
            ("trainset", "EVAL"),
            ("train", "test"),
        ],
    )
    def test_splits_in_any_spelling(self, make, train, val):
        make([5, 4], name=train)
        folder = make([3], name=val)
        source = open_for_training(str(folder))
        assert {part: samples.counts for part, samples in source.splits.items()} == {"train": [5, 4], "val": [3]}
        beside = open_for_training(f"{folder}/{train}-*.tar")
        assert beside.splits["val"].shards == source.splits["val"].shards

    def test_hidden_folders_beside_shards(self, make):
        folder = make([5, 4])
        for name in ("@eaDir", "__MACOSX"):
            (folder / name).mkdir()
        assert len(open_for_evaluation(str(folder))[0].splits["train"]) == 9

    @pytest.mark.parametrize("beside", [False, True])
    def test_one_class_in_two_writings(self, tmp_path, beside):
        composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
        for shard in range(2):
            members = [m for n, label in enumerate((composed, "dog", decomposed)) for m in sample(n, label)]
            write(tmp_path / f"train-{shard}.tar", members)
        if beside:
            (tmp_path / "classes.txt").write_text(f"{decomposed}\ndog\n", encoding="utf-8")
        samples = samples_of(tmp_path)
        assert samples.class_names == [composed, "dog"]
        assert [item.example.target for item in ShardStream(samples, TO_TENSOR)] == [0, 1, 0] * 2

    def test_a_label_that_is_no_text_is_none(self, tmp_path):
        for label in (b"caf\xe9", b'{"label": "\\ud800"}'):
            ending = "cls" if label[:1] == b"c" else "json"
            write(tmp_path / "train-0.tar", [(f"0.{ending}", label), ("0.png", png(0))])
            with pytest.raises(ValueError, match="the sample '0' has no label"):
                open_for_evaluation(str(tmp_path))

    def test_shards_named_val_beside_a_pattern_are_used(self, make):
        make([5, 4])
        folder = make([3], "val", first=9)
        source = open_for_training(f"{folder}/train-*.tar")
        assert len(source.splits["val"]) == 3
        assert any("validated on 1 shard beside it: 'val-000.tar'" in note for note in source.notes)

    def test_whole_shards_are_held_out(self, make):
        folder = str(make([3, 4, 5, 6, 7]))
        trained = open_for_training(folder, Opening(val_fraction=0.4, seed=1))
        assert len(trained.splits["val"].shards) == 2
        source, split = open_for_evaluation(folder, held_out=trained.held_out)
        assert split == "val"
        assert source.splits == trained.splits
        assert not set(source.splits["train"].shards) & set(source.splits["val"].shards)

    def test_groups_are_not_told_apart(self, make):
        folder = str(make([3, 4]))
        with pytest.raises(
            ValueError, match=r"--group does not apply to .*: whole shards are held out; write the images"
        ):
            open_for_training(folder, Opening(group="a"))
        make([3], "val")
        with pytest.raises(ValueError, match=r"--group does not apply to .*: it has shards for validation"):
            open_for_training(folder, Opening(group="a"))

    def test_all_of_train_and_val(self, make):
        make([5])
        assert len(samples_of(make([3], "val"), "all")) == 8

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("classes.txt", "cat\ndog\neel\n"),
            ("classes.json", '["cat", "dog", "eel"]'),
            ("classes.json", '{"cat": 0, "eel": 2, "dog": 1}'),
            ("classes.json", '{"0": "cat", "1": "dog", "2": "eel"}'),
        ],
    )
    def test_class_names_beside_the_shards(self, make, name, content):
        folder = make([5, 4])
        (folder / name).write_text(content)
        assert open_for_evaluation(str(folder))[0].class_names == ["cat", "dog", "eel"]

    @pytest.mark.parametrize("written", ["classes", "none"])
    @pytest.mark.parametrize("ending", ["cls", "json"])
    def test_labels_may_be_names(self, tmp_path, ending, written):
        labels = ["cat", "dog", "ant"]
        content = [label if ending == "cls" else json.dumps({"label": label, "x": 1}) for label in labels]
        members = [
            member for i in range(3) for member in ((f"{i}.{ending}", content[i].encode()), (f"{i}.jpg", png(i)))
        ]
        write(tmp_path / "d/a.tar", members)
        if written == "classes":
            (tmp_path / "d/classes.txt").write_text("ant\ncat\ndog\n")
        samples = samples_of(tmp_path / "d")
        assert samples.class_names == ["ant", "cat", "dog"]
        assert [item.example.target for item in ShardStream(samples, TO_TENSOR)] == [1, 2, 0]

    def test_relabel(self, make):
        samples = samples_of(make([4])).relabel([5, 6, 7]).relabel([0, 0, 0, 0, 0, 8, 9, 10])
        assert [item.example.target for item in ShardStream(samples, TO_TENSOR)] == [8, 9, 10, 8]

    @pytest.mark.parametrize("form", ["sizes.json", "_info.json"])
    def test_written_counts_are_used(self, make, form):
        folder = make([5, 4])
        sizes = {"train-000.tar": 5, "train-001.tar": 4}
        if form == "_info.json":
            split = {"name": "train", "filenames": list(sizes), "shard_lengths": [5, 4], "num_samples": 9}
            sizes = {"splits": {"train": split}}
        (folder / form).write_text(json.dumps(sizes))
        (folder / "classes.txt").write_text("a\nb\nc\n")
        for shard in folder.glob("*.tar"):
            shard.write_bytes(b"not read when opening" * 200)
        assert samples_of(folder).counts == [5, 4]

    def test_members_that_belong_to_no_sample_are_not_counted(self, tmp_path):
        write(tmp_path / "d/a.tar", [("__x__/1.txt", b""), ("README", b""), *sample(0), ("__y__", b""), *sample(1)])
        samples = samples_of(tmp_path / "d")
        assert order_of(ShardStream(samples, TO_TENSOR)) == [0, 1]


def broken(tmp_path, kind):
    """A folder with a sound shard and one with a fault; returns its path."""
    members = [member for number in range(3) for member in sample(number)]
    write(tmp_path / "d/train-0.tar", members)
    path = write(tmp_path / "d/train-1.tar", members)
    content = path.read_bytes()
    # A member takes a block of 512 bytes for its header and one for its content here.
    if kind == "cut":
        path.write_bytes(content[: 3 * 1024 + 600])
    elif kind == "cut between members":
        path.write_bytes(content[: 4 * 1024])
    elif kind == "header":
        path.write_bytes(content[: 4 * 1024] + b"\xff" * 300 + content[4 * 1024 + 300 :])
    elif kind == "image":
        path.write_bytes(content.replace(png(1), b"x" * len(png(1))))
    return tmp_path / "d"


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "train-0.tar cannot be read: it is empty"),
            (b"text" * 1000, "train-0.tar cannot be read: it is no tar file"),
            (bytes(10240), "train-0.tar holds no samples"),
        ],
        ids=["empty", "no tar", "no members"],
    )
    def test_what_is_no_shard(self, tmp_path, content, message):
        (tmp_path / "train-0.tar").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            open_for_evaluation(str(tmp_path))

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("cut", "train-1.tar cannot be read after the sample '0001': unexpected end of data"),
            ("cut between members", "train-1.tar cannot be read after the sample '0001': it is cut off"),
            ("header", "train-1.tar cannot be read after the sample '0001': a broken header follows"),
        ],
    )
    def test_broken_shard_is_found_when_counting(self, tmp_path, kind, message):
        with pytest.raises(ValueError, match=message) as caught:
            open_for_evaluation(str(broken(tmp_path, kind)))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("sizes.json", "[" * 50_000, "is no list of the shards' sizes"),
            ("sizes.json", '{"train-0.tar": -1}', "Expected `int` >= 0"),
            ("sizes.json", '{"train-0.tar": 1000000000000}', "Expected `int` <= 10000000"),
            (
                "sizes.json",
                '{"train-0.tar": 9000000}',
                "train-0.tar is too small for the 9,000,000 samples that the list",
            ),
            ("_info.json", '{"splits": [1]}', "Expected `object`, got `array`"),
            ("_info.json", '{"splits": {"train": {"filenames": ["train-0.tar"]}}}', "missing required field"),
            (
                "_info.json",
                '{"splits": {"train": {"filenames": ["train-0.tar"], "shard_lengths": ["2"]}}}',
                "Expected `int`, got `str`",
            ),
            (
                "_info.json",
                '{"splits": {"train": {"filenames": ["train-0.tar"], "shard_lengths": [1, 2]}}}',
                "is longer than argument 1",
            ),
            ("classes.json", "[" * 50_000, "is no list of class names"),
            ("classes.json", "[null, 1]", "is no list of class names"),
            ("classes.json", '[""]', "length >= 1"),
            ("classes.json", '{"x": "y"}', "is no list of class names"),
            ("classes.json", '{"a": 7, "b": 9}', "is no list of class names"),
            ("classes.json", '["a", 1e999]', "is no list of class names"),
            ("classes.json", "3", "is no list of class names"),
        ],
    )
    def test_a_strangers_list_is_checked(self, tmp_path, name, content, message):
        for shard in ("train-0.tar", "val-0.tar"):
            write(tmp_path / shard, [*sample(0), *sample(1)])
        (tmp_path / name).write_text(content)
        if name != "classes.json":  # or the shards are read, and tell how many they hold
            (tmp_path / "classes.txt").write_text("a\nb\n")
        with pytest.raises(ValueError, match=re.escape(name) if "too small" not in message else "train-0") as error:
            open_for_training(str(tmp_path))
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("files", "pattern", "message"),
        [
            ({"train-0.tar": 3}, "train-{0..2}.tar", "2 shards missing: .*train-1.tar', .*train-2.tar'"),
            ({"train-0.tar": 3}, "x*.tar", "no file matches .*x"),
            ({"train-0.tar": 3}, "train-0.tar", "of a single shard none can be held out"),
            ({"val-0.tar": 3}, "", "has no shards for training: it has 'val-0.tar'"),
            ({"train-0.tar": 1, "val-0.tar": 1}, "", "holds a single class, '0'"),
            ({"train-0.tar": 2, "val-0.tar": 3}, "", "val holds the label 2, train none above 1"),
            ({"train-0.tar": 2, "more.tar": 3}, "", "beside the shards named train, 'more.tar' has no split"),
            ({"train-0.tar": 2, "sizes.json": "[1"}, "", "sizes.json is no list of the shards' sizes"),
            (
                {"train-0.tar": 2, "val-0.tar": 2, "sizes.json": '{"val-0.tar": 7}'},
                "",
                "val-0.tar holds 2 samples, .* 7",
            ),
            ({"train-0.tar": 2, "val-0.tar": 2, "classes.txt": "a\na\n"}, "", "classes.txt names a class twice"),
            ({"train-0.tar": 2, "val-0.tar": 2, "classes.json": "{}"}, "", "classes.json names no classes"),
        ],
    )
    def test_with_the_reason(self, tmp_path, files, pattern, message):
        for name, content in files.items():
            if isinstance(content, int):
                write(tmp_path / name, [member for number in range(content) for member in sample(number)])
            else:
                (tmp_path / name).write_text(content)
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            open_for_training(str(tmp_path / pattern))
        assert "\n" not in str(caught.value)

    def test_tar_of_a_folder_has_no_labels(self, tmp_path):
        write(tmp_path / "pets.tar", [("cat/0.png", png(0)), ("dog/0.png", png(1))])
        with pytest.raises(ValueError, match=r"pets.tar: the sample 'cat/0' has no label"):
            open_for_training(str(tmp_path / "pets.tar"))

    def test_command_that_fails(self):
        with pytest.raises(ValueError, match=r"pipe:false x\.tar cannot be read"):
            open_for_evaluation("pipe:false x.tar")

    def test_fewer_samples_than_devices(self, make):
        with pytest.raises(ValueError, match="3 samples are too few for 4 devices"):
            ShardStream(samples_of(make([3])), TO_TENSOR, world=4, training=True)


class TestOrder:
    @pytest.mark.parametrize("world", [1, 3])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_training_sees_every_sample_once(self, make, world, workers):
        samples = samples_of(make([7, 1, 12, 9, 5, 3]))  # 37 samples
        seen = []
        for rank in range(world):
            stream = ShardStream(samples, TO_TENSOR, rank=rank, world=world, training=True, batch_size=4)
            stream.set_epoch(1)
            batches = numbers(stream, workers, 4)
            assert len(stream) == 37 // world
            assert [len(batch) for batch in batches] == [4] * (len(stream) // 4) + [len(stream) % 4] * (
                len(stream) % 4 > 0
            )
            seen += chain.from_iterable(batches)
        assert len(set(seen)) == len(seen) == 37 // world * world

    @pytest.mark.parametrize("world", [1, 3])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_evaluation_sees_every_sample_once_and_fills_up(self, make, world, workers):
        samples = samples_of(make([7, 1, 12, 9, 5, 3]))
        seen, lengths = [], set()
        for rank in range(world):
            stream = ShardStream(samples, TO_TENSOR, rank=rank, world=world, batch_size=4)
            batches = numbers(stream, workers, 4)
            lengths.add((len(stream), len(batches)))
            seen += chain.from_iterable(batches)
        assert sorted(seen) == list(range(37))
        assert lengths == {(-(-37 // world), -(-37 // world // 4) if workers == 0 else len(batches))}

    def test_one_process_evaluates_in_order(self, make):
        assert numbers(ShardStream(samples_of(make([5, 4])), TO_TENSOR), 0, 9) == [list(range(9))]

    @pytest.mark.parametrize("training", [False, True])
    def test_names_belong_to_the_images(self, make, training):
        samples = samples_of(make([5, 4]))
        for item in ShardStream(samples, TO_TENSOR, training=training):
            number = red(item.example.image)
            assert item.name == f"{samples.shards[number // 5]}: {number:04}"
            assert item.index is None

    def test_the_name_of_a_replaced_sample_is_that_of_the_other(self, tmp_path):
        members = [*sample(0), *sample(1), ("0002.cls", b"2"), ("0002.png", b"no image"), *sample(3), *sample(4)]
        write(tmp_path / "shards/train.tar", members)
        stream = ShardStream(samples_of(tmp_path / "shards"), TO_TENSOR, seed=2, training=True)
        items = [item for item in stream if item.example is not None]
        assert len([item for item in items if item.skipped]) == 1
        assert all(item.name.endswith(f": {red(item.example.image):04}") for item in items)

    def test_labels_belong_to_the_images(self, make):
        stream = ShardStream(samples_of(make([7, 12])), TO_TENSOR, training=True)
        assert all(label == number % CLASSES and reason is None for number, label, reason in seen(stream))

    def test_training_is_shuffled_within_and_across_shards(self, make):
        order = order_of(ShardStream(samples_of(make([10] * 5)), TO_TENSOR, training=True))
        assert sum(second == first + 1 for first, second in pairwise(order)) < 12
        assert [number // 10 for number in order] != sorted(number // 10 for number in order)

    def test_seed_and_epoch_decide_the_order(self, make):
        samples = samples_of(make([10] * 4))

        def order(seed, epoch):
            stream = ShardStream(samples, TO_TENSOR, seed=seed, training=True)
            stream.set_epoch(epoch)
            return numbers(stream, 0, 8)

        assert order(0, 0) == order(0, 0)
        assert len({str(order(*choice)) for choice in [(0, 0), (0, 1), (1, 0)]}) == 3

    @pytest.mark.parametrize(("sizes", "buffer"), [([30], 6), ([1] * 30, 1)], ids=["within a shard", "of shards"])
    def test_every_epoch_has_another_order(self, make, monkeypatch, sizes, buffer):
        monkeypatch.setattr(glocal.data.shard_stream, "SHUFFLE_BUFFER", buffer)  # of one: gives out what comes in
        stream, orders = ShardStream(samples_of(make(sizes)), TO_TENSOR, training=True), set()
        for epoch in range(3):
            stream.set_epoch(epoch)
            orders.add(str(order_of(stream)))
        assert len(orders) == 3

    def test_every_epoch_changes_an_image_in_another_way(self, make):
        stream = ShardStream(samples_of(make([6])), noisy, training=True)
        seen = []
        for epoch in (0, 1):
            stream.set_epoch(epoch)
            seen += [item.example.image[:, 0, 0].tolist() for item in stream]
        for channel in (1, 2):
            assert len({item[channel] for item in seen}) == 12

    def test_workers_that_persist_follow_the_epoch(self, make):
        stream = ShardStream(samples_of(make([6] * 4)), TO_TENSOR, training=True, batch_size=4)
        loader = DataLoader(stream, batch_size=4, num_workers=2, persistent_workers=True, collate_fn=Collate())
        orders = []
        for epoch in (0, 1):
            stream.set_epoch(epoch)
            orders.append([red(image) for batch in loader for image in batch.images])
        assert orders[0] != orders[1]
        assert all(sorted(order) == list(range(24)) for order in orders)

    def test_random_changes_depend_on_seed_epoch_and_place_alone(self, make):
        stream = ShardStream(samples_of(make([6, 6])), noisy, seed=3)
        torch.manual_seed(1)
        first = torch.stack([item.example.image for item in stream])
        torch.manual_seed(2)
        before = torch.get_rng_state()
        loader = DataLoader(stream, batch_size=1, num_workers=2, collate_fn=Collate())
        in_workers = [batch.images for batch in loader]
        again = torch.stack([item.example.image for item in stream])
        assert torch.equal(torch.get_rng_state(), before) or len(in_workers) == 12  # the loader draws a seed itself
        assert torch.equal(first, again)
        in_order = sorted(in_workers, key=lambda images: red(images[0]))
        assert torch.equal(first, torch.cat(in_order))
        assert len({float(image[1, 0, 0]) for image in first}) == 12

    def test_global_random_state_is_left_alone(self, make):
        stream = ShardStream(samples_of(make([4])), noisy, training=True)
        before = torch.get_rng_state()
        list(stream)
        assert torch.equal(torch.get_rng_state(), before)

    def test_pickled_copy_goes_the_same_way(self, make):
        stream = ShardStream(samples_of(make([6, 6])), TO_TENSOR, seed=3, training=True)
        stream.set_epoch(2)
        assert numbers(pickle.loads(pickle.dumps(stream)), 0, 4) == numbers(stream, 0, 4)


class TestUnreadable:
    def items(self, folder, **options):
        return seen(ShardStream(samples_of(folder), TO_TENSOR, **options))

    @pytest.mark.parametrize("kind", ["cut", "cut between members", "header"])
    def test_what_a_broken_shard_lacks_is_reported(self, tmp_path, kind):
        folder = broken(tmp_path, kind)
        (folder / "sizes.json").write_text('{"train-0.tar": 3, "train-1.tar": 3}')
        (folder / "classes.txt").write_text("a\nb\nc\n")
        whole = [(0, 0, None), (1, 1, None), (2, 2, None), (0, 0, None), (1, 1, None)]
        readable = 4 if kind == "cut" else 5
        items = self.items(folder)
        assert items[:readable] == whole[:readable]
        for place, (number, label, reason) in enumerate(items[readable:], readable):
            assert (number, label) == (None, None)
            assert f"train-1.tar: sample {place - 3}: " in reason
            assert "of 3 samples" in reason
        assert len(items) == 6

    def test_missing_shard_is_reported(self, tmp_path):
        folder = broken(tmp_path, "")
        samples = samples_of(folder)
        (folder / "train-0.tar").unlink()
        items = seen(ShardStream(samples, TO_TENSOR))
        assert [label for _, label, _ in items] == [None, None, None, 0, 1, 2]
        for place in range(3):
            assert f"train-0.tar: sample {place}: " in items[place][2]
            assert "No such file" in items[place][2]
        assert [reason for _, _, reason in items[3:]] == [None] * 3

    def test_evaluation_leaves_it_out(self, tmp_path):
        folder = broken(tmp_path, "image")
        reason = f"{folder}/train-1.tar: 0001.png: not an image"
        assert self.items(folder)[3:] == [(0, 0, None), (None, None, reason), (2, 2, None)]

    def test_training_repeats_the_last_that_could_be_read(self, tmp_path):
        items = self.items(broken(tmp_path, "image"), training=True)
        assert len(items) == 6
        (place,) = (place for place, (_, _, reason) in enumerate(items) if reason is not None)
        assert "train-1.tar: 0001.png: not an image" in items[place][2]
        assert items[place][:2] == (items[place - 1][:2] if place else (None, None))

    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ([("0.png", png(0))], "a.tar: 0: no label"),
            ([("0.png", png(0)), ("0.cls", b"7")], "a.tar: 0: the label '7' is none of 2 classes"),
            ([("0.png", png(0)), ("0.cls", b"\xff")], "a.tar: 0: no label"),
            ([("0.png", png(0)), ("0.json", b"{")], "a.tar: 0: no label"),
            ([("0.png", png(0)), ("0.json", b'{"label": 0.5}')], "a.tar: 0: no label"),
            ([("0.txt", b""), ("0.cls", b"1")], "a.tar: 0: no image among txt, cls"),
            ([("0.png", b""), ("0.cls", b"1")], "a.tar: 0.png: the file is empty"),
        ],
    )
    def test_reason(self, tmp_path, members, reason):
        write(tmp_path / "d/a.tar", members)
        (tmp_path / "d/classes.txt").write_text("a\nb\n")
        ((number, label, found),) = self.items(tmp_path / "d")
        assert (number, label) == (None, None)
        assert found.endswith(reason)


class TestResume:
    """Continuing from a state gives what would have come without a stop, bit for bit."""

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("batches", [1, 7])
    def test_within_an_epoch(self, tmp_path, workers, batches):
        bad = {5, 6, 17, 30}
        for shard in range(4):
            members = [
                (name, b"x" * len(content) if number in bad and name.endswith("png") else content)
                for number in range(shard * 9, shard * 9 + 9)
                for name, content in sample(number)
            ]
            write(tmp_path / f"d/{shard}.tar", members)
        samples = samples_of(tmp_path / "d")

        def loader():
            stream = ShardStream(samples, noisy, seed=1, training=True, batch_size=4)
            return stream, StatefulDataLoader(stream, batch_size=4, num_workers=workers, collate_fn=Collate(fill=True))

        stream, whole = loader()
        expected = []
        for epoch in (3, 4):
            stream.set_epoch(epoch)
            expected += list(whole)
        stream, stopped = loader()
        stream.set_epoch(3)
        iterator = iter(stopped)
        for _ in range(batches):
            next(iterator)
        state = pickle.loads(pickle.dumps(stopped.state_dict()))
        del iterator, stopped
        stream, continued = loader()
        stream.set_epoch(3)
        continued.load_state_dict(state)
        found = list(continued)
        stream.set_epoch(4)
        found += list(continued)
        assert len(found) == 18 - batches
        for batch, other in zip(found, expected[batches:], strict=True):
            assert torch.equal(batch.images, other.images)
            assert torch.equal(batch.targets, other.targets)
            assert batch.skipped == other.skipped

    def test_at_any_sample(self, tmp_path):
        """Also right before one that cannot be read, in whose place the last before the stop comes."""
        members = [
            (name, b"x" * len(content) if number in (2, 5, 6, 11) and name.endswith("png") else content)
            for number in range(14)
            for name, content in sample(number)
        ]
        write(tmp_path / "d/0.tar", members)
        samples = samples_of(tmp_path / "d")
        whole = seen(ShardStream(samples, TO_TENSOR, training=True))
        for stop in range(14):
            stopped, continued = (ShardStream(samples, TO_TENSOR, training=True) for _ in range(2))
            list(zip(range(stop), stopped, strict=False))
            continued.load_state_dict(stopped.state_dict())
            assert seen(continued) == whole[stop:]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_between_epochs(self, make, workers):
        samples = samples_of(make([6] * 4))

        def loader():
            stream = ShardStream(samples, TO_TENSOR, training=True, batch_size=4)
            return stream, StatefulDataLoader(stream, batch_size=4, num_workers=workers, collate_fn=Collate(fill=True))

        stream, first = loader()
        list(first)
        state = first.state_dict()
        stream.set_epoch(1)
        expected = [batch.images for batch in first]
        stream, second = loader()
        second.load_state_dict(state)
        stream.set_epoch(1)
        found = [batch.images for batch in second]
        assert torch.equal(torch.cat(found), torch.cat(expected))


class TestMasks:
    """A member of each sample is its mask."""

    def shards(self, tmp_path, names="sky\nroad\ncar\n", broken=()):
        for part, numbers in (("train", range(8)), ("val", range(8, 12))):
            members = []
            for number in numbers:
                content = io.BytesIO()
                Image.frombytes("L", (8, 8), bytes([number % 3] * 60 + [0, 1, 2, 255])).save(content, "PNG")
                mask = b"" if number in broken else content.getvalue()
                members += [(f"{number:04}.png", png(number)), (f"{number:04}.seg.png", mask)]
            write(tmp_path / f"shards/{part}-000.tar", members)
        if names:
            (tmp_path / "shards/classes.txt").write_text(names)
        return str(tmp_path / "shards")

    def decoded(self, samples):
        found = glocal.data.shards.read_shard(samples.shards[0], set(range(samples.counts[0])), samples.counts[0])
        return [samples.decode(one) for _, one in found]

    def test_it_is_a_segmentation(self, tmp_path):
        source = open_for_training(self.shards(tmp_path), Opening(args={"masks": "seg.png"}))
        assert source.task == "segmentation"
        assert source.class_names == ["sky", "road", "car"]
        assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 8, "val": 4}
        for number, (image, mask) in enumerate(self.decoded(source.splits["train"])):
            assert image.getpixel((0, 0)) == (number, 0, 0)
            assert mask.load((8, 8)).reshape(-1)[58:].tolist() == [number % 3] * 2 + [0, 1, 2, -1]

    @pytest.mark.parametrize("formats", [None, "segmentation"])
    def test_no_format_takes_it_before(self, tmp_path, formats):
        formats = all_formats() if formats is None else find_task(formats).formats
        source = open_for_training(self.shards(tmp_path), Opening(args={"masks": "seg.png"}), formats)
        assert (source.task, len(source.splits["train"])) == ("segmentation", 8)

    def test_classes_by_arguments(self, tmp_path):
        args = {"masks": "seg.png", "classes": ["road", "car"], "reduce_zero_label": True}
        source = open_for_training(self.shards(tmp_path, None), Opening(args=args))
        assert self.decoded(source.splits["val"])[0][1].load((8, 8)).reshape(-1)[60:].tolist() == [-1, 0, 1, -1]

    def test_all_parts_together(self, tmp_path):
        source, _ = open_for_evaluation(self.shards(tmp_path), "all", how=Opening(args={"masks": "seg.png"}))
        assert len(source.splits["all"]) == 12
        assert self.decoded(source.splits["all"])[0][1].load((8, 8)).shape == (8, 8)

    def test_a_broken_mask_is_named(self, tmp_path):
        data = self.shards(tmp_path, broken=(3,))
        source = open_for_training(data, Opening(args={"masks": "seg.png"}))
        assert any("1 of 8 masks read cannot be used" in note for note in source.notes)
        with pytest.raises(UnreadableImageError, match=r"0003\.seg\.png: the file is empty"):
            self.decoded(source.splits["train"])[3][1].load((8, 8))

    @pytest.mark.parametrize(
        ("names", "args", "reason"),
        [(None, {"masks": "seg.png"}, "list the classes of the masks in classes.txt beside it"),
         ("a\nb\n", {"masks": "mask.png"}, r"no mask .mask.png in the first 8 samples .png, seg.png"),
         ("a\nb\n", {"masks": "seg.png"}, r"value 2 on \d+ pixels?, which is no class"),
         ("a\nb\n", {"masks": "../x"}, "masks must be the ending of the masks"),
         ("a\nb\n", {"classes": ["a", "b"]}, "'classes' is for masks: say their ending"),
         (None, {}, r"has no label .*; for a segmentation, say --data-args masks=seg.png")],
    )  # fmt: skip
    def test_what_is_refused(self, tmp_path, names, args, reason):
        with pytest.raises(ValueError, match=reason):
            open_for_training(self.shards(tmp_path, names), Opening(args=args))
