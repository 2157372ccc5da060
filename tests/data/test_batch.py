"""What a loader gives: whole batches in training, smaller ones where something cannot be read in a measurement."""

import pytest
import torch

from glocal.data.batch import Batch, Collate, Example, Item
from glocal.data.geometry import Geometry

PLACE = Geometry((8, 8), (4, 4), (0, 0, 8, 8))


def item(number, skipped=None):
    return Item(Example(torch.full((3, 4, 4), float(number)), number, PLACE), skipped, f"{number}.png", number)


def numbers(batch):
    return batch.images[:, 0, 0, 0].tolist()


def test_a_measurement_leaves_out_what_is_lacking():
    batch = Collate()([item(1), Item(None, "a.png: broken"), item(2), Item(None)])
    assert numbers(batch) == batch.targets.tolist() == [1, 2]
    assert batch.geometry == [PLACE, PLACE]
    assert (batch.names, batch.indices) == (["1.png", "2.png"], [1, 2])
    assert batch.skipped == ["a.png: broken"]
    assert len(batch) == 2


@pytest.mark.parametrize(
    ("readable", "filled"),
    [("1-2-", [1, 1, 2, 2]), ("-1--", [1, 1, 1, 1]), ("12--", [1, 2, 1, 2]), ("1234", [1, 2, 3, 4])],
)
def test_a_training_puts_readable_ones_in_turn_in_their_place(readable, filled):
    batch = Collate(fill=True)(
        [Item(None, f"{at}") if one == "-" else item(int(one)) for at, one in enumerate(readable)]
    )
    assert numbers(batch) == batch.targets.tolist() == batch.indices == filled
    assert batch.names == [f"{number}.png" for number in filled]
    assert batch.skipped == [str(at) for at, one in enumerate(readable) if one == "-"]


def test_the_reason_of_a_replaced_file_is_kept():
    assert Collate(fill=True)([item(1, "b.png: broken"), item(2)]).skipped == ["b.png: broken"]


@pytest.mark.parametrize("fill", [True, False])
def test_nothing_can_be_read(fill):
    batch = Collate(fill)([Item(None, "a"), Item(None, "b")])
    assert len(batch) == 0
    assert batch.skipped == ["a", "b"]


def test_targets_are_put_together_as_their_task_says():
    batch = Collate(targets=list)([item(3), item(1)])
    assert batch.targets == [3, 1]
    without = Collate()([Item(Example(torch.zeros(3, 4, 4)))])
    assert without.targets is None


def test_every_tensor_goes_to_the_device():
    targets = {"boxes": [torch.ones(2, 4), torch.ones(0, 4)], "size": (4, 4)}
    batch = Batch(torch.ones(2, 3, 4, 4), targets, [PLACE, PLACE], ["a"]).to(torch.device("meta"))
    assert batch.images.is_meta
    assert all(boxes.is_meta for boxes in batch.targets["boxes"])
    assert batch.targets["size"] == (4, 4)
    assert (batch.geometry, batch.skipped) == ([PLACE, PLACE], ["a"])
