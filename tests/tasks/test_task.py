"""Tasks are known by their names, and their options mean one thing each."""

from dataclasses import dataclass

import pytest

from glocal.tasks import find_task, register_task, registered_tasks
from glocal.tasks.classification.task import CLASSIFICATION, Classification
from glocal.tasks.registry import refuse_foreign_options
from glocal.tasks.task import LOSS, Measure
from glocal.training.config import TrainConfig, train_config


@dataclass(frozen=True)
class Clash:
    """Options.

    Args:
        mixup: something else
    """

    mixup: int = 3


class Other(Classification):
    name = "other"
    Options = Clash


NAMES = ["classification", "multilabel", "segmentation", "panoptic", "detection", "instances"]


def test_a_task_is_found_by_its_name():
    assert [task.name for task in registered_tasks()] == NAMES
    assert find_task("classification") is CLASSIFICATION
    with pytest.raises(
        ValueError, match="unknown task 'depth'; the tasks are classification, multilabel, segmentation, panoptic"
    ):
        find_task("depth")


def test_a_name_is_taken_once():
    assert register_task(CLASSIFICATION) is CLASSIFICATION
    with pytest.raises(ValueError, match="a task named 'classification' already exists"):
        register_task(Classification())


def test_an_option_means_one_thing():
    with pytest.raises(ValueError, match="--mixup of Clash means something else elsewhere"):
        register_task(Other())
    assert len(registered_tasks()) == len(NAMES)
    with pytest.raises(ValueError, match="--mixup"):
        train_config(CLASSIFICATION, Other())


def test_options_of_one_task_alone():
    config = train_config(find_task("multilabel"))
    assert config(label_smoothing=0.2).label_smoothing == 0.2
    with pytest.raises(TypeError, match="mixup"):
        config(mixup=0.2)


@pytest.mark.parametrize(
    ("options", "task", "refused"),
    [
        ({"mixup": 0.1}, "multilabel", "--mixup is for classification"),
        ({"balanced": True}, "multilabel", "--balanced is for classification"),
        ({"label_smoothing": 0.3}, "multilabel", None),
        ({"mixup_prob": 0.3, "mixup": 0, "distillation_weight": 0.2}, "multilabel", None),  # of no effect alone
        ({"teacher_checkpoint": "t.pt"}, "multilabel", "--teacher-checkpoint is for classification"),
        ({"mixup": 0.1}, "classification", None),
    ],
)
def test_options_of_other_tasks(options, task, refused):
    if refused is None:
        return refuse_foreign_options(TrainConfig(**options), find_task(task))
    with pytest.raises(ValueError, match=refused):
        refuse_foreign_options(TrainConfig(**options), find_task(task))


@pytest.mark.parametrize(
    ("measure", "value", "shown"),
    [
        (Measure("top1", "top-1", " %"), 81.256, "81.26 %"),
        (Measure("degrees", "mean error", "°", 1), 12.345, "12.3°"),
        (Measure("images_per_second", "images/s", digits=0), 12345.6, "12,346"),
        (LOSS, 0.12345, "0.1235"),
    ],
)
def test_values_for_people(measure, value, shown):
    assert measure.shown(value) == shown


def test_better_models_rank_higher():
    task = find_task("classification")
    ranks = [task.rank({"top1": top1, "loss": loss}) for top1, loss in ((50, 2.0), (50, 1.0), (51, 9.0))]
    assert ranks == sorted(ranks)
