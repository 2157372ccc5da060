"""Measuring a trained model on a data set."""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from glocal.data.dataset import default_workers, evaluation_loader
from glocal.data.preprocessing import Preprocessing
from glocal.data.source import DataSource, Samples, open_for_evaluation
from glocal.tasks.classification import evaluate as measure
from glocal.tasks.classifier import Classifier, check_input_size, load_classifier, resolve_device
from glocal.training.eval_config import EvalConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalResult:
    """A measurement. top1 and top5 are in percent; images_per_second includes reading them.

    images counts those measured, unread names those that could not be read.
    """

    top1: float
    top5: float
    loss: float
    images_per_second: float
    images: int
    unread: list[str]
    model: str
    data: str
    split: str
    img_size: list[int]
    device: str


def evaluate(config: EvalConfig, track: Callable[[Iterable, int], Iterable] | None = None) -> EvalResult:
    """Measure a model as `config` says; writes `config.json` if given.

    track passes the batches on and may show progress; it gets their number too.

    Classes are matched by name, so the data may lack some of the model's. Raises ValueError or OSError for what cannot
    be measured.
    """
    device = resolve_device(config.device)
    if config.json is not None and not Path(config.json).absolute().parent.is_dir():
        raise FileNotFoundError(f"--json {config.json}: there is no such folder")
    classifier = load_classifier(config.checkpoint, config.model)
    held_out = classifier.info.data.get("held_out") if classifier.info else None
    source, split = open_for_evaluation(config.data, config.split, held_out)
    for note in source.notes:
        log.warning(note)
    samples = _match_classes(source, split, classifier)
    preprocessing = Preprocessing(**classifier.preprocessing)
    if config.img_size is not None:
        preprocessing = replace(preprocessing, input_size=(3, config.img_size, config.img_size))
        check_input_size(classifier.model, preprocessing.input_size)
    workers = default_workers(samples) if config.workers is None else config.workers
    loader = evaluation_loader(samples, preprocessing.transform(), config.batch_size, workers)
    batches = loader if track is None else track(loader, len(loader))
    metrics, unread = measure(classifier.model, batches, device)
    reasons = [loader.dataset.reason(index) for index in unread]
    for reason in reasons:
        log.warning("skipped %s", reason)
    if not metrics["images"]:
        raise ValueError(f"none of the {len(samples)} images of {config.data} can be read")
    result = EvalResult(
        **metrics,
        unread=reasons,
        model=classifier.name,
        data=config.data,
        split=split,
        img_size=list(preprocessing.input_size[1:]),
        device=str(device),
    )
    if config.json is not None:
        Path(config.json).write_text(json.dumps(vars(result), indent=2) + "\n", encoding="utf-8")
    return result


def _match_classes(source: DataSource, split: str, classifier: Classifier) -> Samples:
    """The samples with the model's labels instead of the folder's; ValueError for a class that the model lacks."""
    known = {name: label for label, name in enumerate(classifier.class_names)}
    unknown = [name for name in source.class_names if name not in known]
    if unknown:
        raise ValueError(
            f"{source.name} holds classes that {classifier.name} was not trained on: {_some(unknown)} "
            f"(it knows {_some(classifier.class_names)})"
        )
    samples = source.splits[split]
    return Samples(samples.images, [known[source.class_names[label]] for label in samples.labels])


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
