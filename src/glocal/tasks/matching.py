"""Which outputs of a model belong to the classes of a data set."""

from collections.abc import Iterable

from glocal.data.names import class_name
from glocal.data.samples import DataSource
from glocal.errors import InvalidValueError
from glocal.tasks.task import Trained
from glocal.wording import quoted


def outputs_of(source: DataSource, trained: Trained) -> list[int]:
    """The output for each of the data's classes, matched by name; ValueError for a class that the model lacks."""
    known = {class_name(name): output for output, name in enumerate(trained.class_names)}
    unknown = [name for name in source.class_names if name not in known]
    if unknown:
        raise InvalidValueError(
            f"{source.name} holds classes that {trained.name} was not trained on: {quoted(unknown, 3)} "
            f"(it knows {quoted(trained.class_names, 3)})"
        )
    return [known[name] for name in source.class_names]


def display_names(trained: Trained, outputs: Iterable[int]) -> list[str]:
    """The data's names of outputs for people to read: a WordNet id is followed by its meaning."""
    names, meanings = trained.class_names, trained.descriptions
    return [names[i] if names[i] == meanings[i] else f"{names[i]} ({meanings[i].split(',')[0]})" for i in outputs]
