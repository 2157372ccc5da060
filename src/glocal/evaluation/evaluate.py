"""Measuring a trained model on a data set, at several sizes, or on corrupted images."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from glocal.data.batch import Batch
from glocal.data.corruptions import (
    ALEXNET_ERROR,
    SEVERITIES,
    Corruption,
    check_corruptions,
    corrupt_transform,
    corruption_error,
)
from glocal.data.image import set_strict
from glocal.data.loaders import evaluation_loader
from glocal.data.names import class_name
from glocal.data.open import open_for_evaluation
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource, Samples
from glocal.device import resolve_device
from glocal.errors import InvalidValueError, NotAFolderError
from glocal.evaluation.config import EvalConfig
from glocal.evaluation.result import EvalResult
from glocal.evaluation.robustness import SUBSETS, imagenet_classes, open_corrupted, open_real, open_robustness_set
from glocal.files import check_target
from glocal.tasks.classifier import Classifier, check_input_size, load_classifier
from glocal.tasks.labels import LabelTransform, several
from glocal.tasks.metrics import AcceptedLabelsMetrics, MultiLabelMetrics, SingleLabelMetrics
from glocal.tasks.run_files import own_data
from glocal.wording import quoted

log = logging.getLogger(__name__)

Metrics = SingleLabelMetrics | AcceptedLabelsMetrics | MultiLabelMetrics
Track = Callable[[Iterable, int], Iterable]


@dataclass(frozen=True)
class _Target:
    """What a data set's labels say about a model's outputs.

    class_names: of the outputs that take part. outputs: their indices, None for all of them.
    labels: (classes of the data,) the index among these outputs of each of the data's classes; for ReaL (images,
    classes), which outputs are accepted for each image.
    """

    metrics: type[Metrics]
    class_names: list[str]
    outputs: Tensor | None
    labels: Tensor | None
    imagenet: bool = False  # whether the data's classes are ImageNet's
    data_classes: int | None = None  # of several labels per image: how many


@dataclass
class _Pass:
    """Once through some images; condition: their corruption and severity. corruption: it is made on the fly."""

    samples: Samples
    preprocessing: Preprocessing
    target: _Target
    condition: tuple[str, int] | None = None
    corruption: Corruption | None = None
    seconds: float = 0.0
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.metrics = self.target.metrics()

    def batches(self, config: EvalConfig) -> Iterator[Batch]:
        """The images in batches; keeps in `unreadable` why some could not be read."""
        classes = self.target.data_classes
        target = int if classes is None else partial(several, classes=classes)
        transform = LabelTransform(self.preprocessing, target=target)
        if self.corruption is not None:
            transform.path = corrupt_transform(transform.path, self.corruption)
        for batch in evaluation_loader(self.samples, transform, config.batch_size, config.workers):
            self.unreadable += batch.skipped
            yield batch

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, outputs), labels as the data has them."""
        if self.target.outputs is not None:
            logits = logits[:, self.target.outputs.to(logits.device)]
        if self.target.labels is not None:
            labels = self.target.labels[labels]
        self.metrics.update(logits, labels.to(logits.device))

    def result(self) -> dict:
        result = self.metrics.compute(self.target.class_names)
        result["images_per_second"] = self.metrics.images / self.seconds
        if "confusion" in result:
            result["class_names"] = self.target.class_names
        return result


def evaluate(config: EvalConfig, track: Track | None = None) -> EvalResult | list[EvalResult]:
    """Measure a model as `config` says; with `sizes`, returns a result for each. Writes `json` and `plots` if given.

    track passes the batches on and may show progress; it gets their number too.

    Classes are matched by name, so the data may lack some of the model's. Raises ValueError or OSError for what cannot
    be measured.
    """
    config, _ = with_data(config)
    _check_outputs(config)
    set_strict(config.strict)
    device = resolve_device(config.device)
    classifier = load_classifier(config.checkpoint, config.model)
    if config.set == "imagenet-c":
        passes, facts = _corrupted_passes(config, classifier)
    else:
        passes, facts = _passes(config, classifier)
    _run(passes, classifier, device, config, track)
    facts |= {"model": classifier.name, "data": config.data, "set": config.set, "device": str(device)}
    if config.set == "imagenet-c" or config.corruptions:
        result = _corruption_result(passes, facts, config)
    else:
        result = [_result([one], facts, one.result()) for one in passes]
        result = result if config.sizes is not None else result[0]
    if config.json is not None:
        Path(config.json).write_text(_to_json(result), encoding="utf-8")
    if config.plots is not None:
        from glocal.evaluation.plots import draw

        draw(result, Path(config.plots))
    return result


def with_data(config: EvalConfig) -> tuple[EvalConfig, Path | None]:
    """The same with the data to measure on: where none is given, that of the run; then also the file that says it."""
    if config.data is not None:
        return config, None
    if config.checkpoint is None:
        weights = "give --checkpoint, or --model for a model's published weights"
        raise InvalidValueError("give DATA, the images to measure on" if config.model is not None else weights)
    data, file = own_data(config.checkpoint)
    return replace(config, data=data), file


def _check_outputs(config: EvalConfig) -> None:
    """Raise for results that could not be written, before hours of measuring."""
    if config.json is not None:
        check_target("--json", config.json)
    if config.plots is not None:
        from glocal.evaluation.plots import check_matplotlib

        check_matplotlib()
        if Path(config.plots).exists() and not Path(config.plots).is_dir():
            raise NotAFolderError(f"--plots {config.plots} is a file: give a folder")
        Path(config.plots).mkdir(parents=True, exist_ok=True)


def _passes(config: EvalConfig, classifier: Classifier) -> tuple[list[_Pass], dict]:
    """One pass, or one per size or corruption; and what to report of the data."""
    if config.set == "real":
        samples, accepted, unlabelled = open_real(Path(config.data))
        target = _accepted_target(accepted, classifier)
        facts = {"split": "all", "unlabelled": unlabelled}
    else:
        if config.set is not None:
            source, split = open_robustness_set(config.set, Path(config.data), classifier.class_names), "all"
        else:
            held_out = classifier.info.data.get("held_out") if classifier.info else None
            source, split = open_for_evaluation(config.data, config.split, held_out)
        for note in source.notes:
            log.warning(note)
        samples, facts = source.splits[split], {"split": split}
        target = _target(source, classifier, subset=config.set in SUBSETS)
        if config.plots is not None and target.metrics is MultiLabelMetrics and config.sizes is None:
            raise InvalidValueError(
                "--plots: several labels per image have no confusion matrix and no reliability diagram"
            )
    preprocessing = _preprocessing(config, classifier)
    if config.corruptions:
        if target.metrics is MultiLabelMetrics:
            raise InvalidValueError("--corruptions measures the error of one label per image, and the data has several")
        check_corruptions(config.corruption_list(), preprocessing[0].input_size)
        conditions = [(name, severity) for name in config.corruption_list() for severity in SEVERITIES]
        corrupted = [_Pass(samples, preprocessing[0], target, one, Corruption(*one)) for one in conditions]
        return [_Pass(samples, preprocessing[0], target), *corrupted], facts
    return [_Pass(samples, one, target) for one in preprocessing], facts


def _corrupted_passes(config: EvalConfig, classifier: Classifier) -> tuple[list[_Pass], dict]:
    """A pass per corruption and severity of ImageNet-C on disk, whose images are cropped already."""
    sources = open_corrupted(Path(config.data))
    complete = len(ALEXNET_ERROR) * len(SEVERITIES)
    if len(sources) < complete:
        log.warning(
            "%s holds %d of %d corruptions and severities: there is no mCE", config.data, len(sources), complete
        )
    preprocessing = replace(_preprocessing(config, classifier)[0], crop_pct=1.0)
    passes = []
    for condition, source in sources.items():
        for note in source.notes:
            log.warning(note)
        target = _target(source, classifier)
        passes.append(_Pass(source.splits["all"], preprocessing, target, condition))
    return passes, {"split": "all"}


def _preprocessing(config: EvalConfig, classifier: Classifier) -> list[Preprocessing]:
    """The model's own, or with another size; one per size of --sizes."""
    own = Preprocessing(**classifier.preprocessing)
    sizes = config.size_list() or ([] if config.img_size is None else [config.img_size])
    resized = [replace(own, input_size=(3, size, size)) for size in sizes]
    for one in resized:
        check_input_size(classifier.model, one.input_size, "--sizes" if config.sizes else "--img-size")
    return resized or [own]


def _target(source: DataSource, classifier: Classifier, subset: bool = False) -> _Target:
    """Match classes by name; ValueError for a class that the model lacks.

    subset: only the data's classes can be predicted.
    """
    known = {class_name(name): output for output, name in enumerate(classifier.class_names)}
    unknown = [name for name in source.class_names if name not in known]
    if unknown:
        raise InvalidValueError(
            f"{source.name} holds classes that {classifier.name} was not trained on: {quoted(unknown, 3)} "
            f"(it knows {quoted(classifier.class_names, 3)})"
        )
    outputs = torch.tensor([known[name] for name in source.class_names])
    if source.multi_label:
        return _Target(
            MultiLabelMetrics, _readable(classifier, outputs.tolist()), outputs, None, data_classes=len(outputs)
        )
    imagenet = set(source.class_names) <= set(imagenet_classes())
    if subset:
        names = _readable(classifier, outputs.tolist())
        return _Target(SingleLabelMetrics, names, outputs, torch.arange(len(outputs)), imagenet)
    return _Target(
        SingleLabelMetrics, _readable(classifier, range(len(classifier.class_names))), None, outputs, imagenet
    )


def _accepted_target(accepted: list[tuple[int, ...]], classifier: Classifier) -> _Target:
    known = {name: output for output, name in enumerate(classifier.class_names)}
    ids = imagenet_classes()
    if not set(ids) <= set(known):
        raise InvalidValueError(f"--set real needs a model of ImageNet's 1000 classes, and {classifier.name} is none")
    table = torch.zeros(len(accepted), len(ids), dtype=torch.bool)
    for place, labels in enumerate(accepted):
        table[place, list(labels)] = True
    return _Target(AcceptedLabelsMetrics, list(ids), torch.tensor([known[name] for name in ids]), table)


def _readable(classifier: Classifier, outputs: Iterable[int]) -> list[str]:
    """Names of outputs: as the data calls them, with what that means where it is a WordNet id."""
    names, meanings = classifier.class_names, classifier.descriptions
    return [names[i] if names[i] == meanings[i] else f"{names[i]} ({meanings[i].split(',')[0]})" for i in outputs]


def _run(
    passes: list[_Pass], classifier: Classifier, device: torch.device, config: EvalConfig, track: Track | None
) -> None:
    """Measure all passes, under one progress bar."""
    model = classifier.model.to(device, memory_format=torch.channels_last).eval()
    batches = ((one, batch) for one in passes for batch in one.batches(config))
    total = sum(-(-len(one.samples) // config.batch_size) for one in passes)
    with torch.inference_mode():
        start = time.perf_counter()
        for one, batch in batches if track is None else track(batches, total):
            if len(batch):
                images = batch.images.to(device, memory_format=torch.channels_last)
                one.update(model(images), batch.targets)
            now = time.perf_counter()
            one.seconds += now - start
            start = now
    for reason in _unreadable(passes):
        log.warning("skipped %s", reason)
    for one in passes:
        if not one.metrics.images:
            raise InvalidValueError(f"none of the {len(one.samples)} images of {config.data} can be read")


def _unreadable(passes: list[_Pass]) -> list[str]:
    return list(dict.fromkeys(reason for one in passes for reason in one.unreadable))


def _result(passes: list[_Pass], facts: dict, measured: dict) -> EvalResult:
    size = list(passes[0].preprocessing.input_size[1:])
    return EvalResult(**facts, **measured, img_size=size, unread=_unreadable(passes))


def _corruption_result(passes: list[_Pass], facts: dict, config: EvalConfig) -> EvalResult:
    """Errors per corruption, beside what was measured on the clean images; of ImageNet-C, on all of them together."""
    results = {one.condition: one.result() for one in passes if one.condition is not None}
    errors = {condition: 100 - result["top1"] for condition, result in results.items()}
    imagenet = all(one.target.imagenet for one in passes)
    classes = min(len(one.target.labels) for one in passes)
    if imagenet and classes < len(imagenet_classes()):
        log.warning("AlexNet's errors are of 1000 classes; the data has %d, so that its CE are not comparable", classes)
    if config.set != "imagenet-c":
        return _result(passes, facts, {**passes[0].result(), **corruption_error(errors, imagenet)})
    total = sum(one["images"] for one in results.values())
    measured = {
        name: sum(one[name] * one["images"] for one in results.values()) / total for name in ("top1", "top5", "loss")
    }
    measured |= {"images": total, "images_per_second": total / sum(one.seconds for one in passes)}
    return _result(passes, facts, {**measured, **corruption_error(errors, imagenet)})


def _to_json(result: EvalResult | list[EvalResult]) -> str:
    """Indented JSON, but for lists of numbers, which take a line each."""
    values = [one.to_dict() for one in result] if isinstance(result, list) else result.to_dict()
    text = json.dumps(values, indent=2, ensure_ascii=False)
    return re.sub(r"\[\n[-+.,\seE\dnul]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text) + "\n"
