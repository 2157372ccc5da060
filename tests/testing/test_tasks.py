"""check_task accepts every task of ours and one from outside, and refuses a task for each property that it lacks."""

from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import ClassVar, NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from glocal.data.samples import Samples
from glocal.tasks import find_task, registered_tasks
from glocal.tasks.task import Line, Match, Measure, Objective, Result, ResultTable, Writer
from glocal.testing import check_task
from glocal.testing.tasks import PROPERTIES
from tasks.outside import ANGLE, Angle, AngleMetrics, AngleObjective, Turn, TurnedImages
from tasks.test_outside import write_images

pytestmark = pytest.mark.usefixtures("one_thread")

MULTILABEL_DATA = Path(__file__).parents[1] / "made_by_0_1/multilabel/data/labels.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turned") / "data"
    write_images(folder)
    return folder


@pytest.mark.parametrize(("name", "data"), [("classification", "digits"), ("multilabel", MULTILABEL_DATA)])
def test_takes_our_own(name, data):
    check_task(find_task(name), data)


def test_takes_one_from_outside_that_nobody_has_registered(data):
    check_task(ANGLE, data)
    assert ANGLE not in registered_tasks()


# Names, measures, options, fields


class HasNoSummary(Angle):
    summary = " "


class HasANameOfTwoWords(Angle):
    name = "Angle of images"


class HasOneHeading(Angle):
    headings = ("angle",)


class HasNoMeasure(Angle):
    measures = ()


class HasAMeasureTwice(Angle):
    measures = (*Angle.measures, Measure("degrees", "degrees"))


class HasAKeyForAMeasure(Angle):
    measures = ("degrees",)


class Thawed:
    smooth_beta = 0.1


class HasOptionsOfAClass(Angle):
    Options = Thawed


@dataclass(frozen=True)
class Epochs:
    """Options.

    Args:
        epochs: of the angle
    """

    epochs: int = 3


class HasAnOptionOfTheLoop(Angle):
    Options = Epochs


@dataclass(frozen=True)
class Split:
    """Options.

    Args:
        split: of the images
    """

    split: str = "left"


class HasAnOptionOfEval(Angle):
    EvalOptions = Split


@dataclass(frozen=True)
class Weights:
    """Options.

    Args:
        weights: of the loss
    """

    weights: Tensor | None = None


class HasATensorForAnOption(Angle):
    Options = Weights


@dataclass(frozen=True)
class Unexplained:
    """Options of the angle's loss."""

    smooth_beta: float = 0.1


class HasAnOptionWithoutHelp(Angle):
    Options = Unexplained


@dataclass(frozen=True)
class Needed:
    """Options.

    Args:
        smooth_beta: distance
    """

    smooth_beta: float


class HasAnOptionWithoutDefault(Angle):
    Options = Needed


@dataclass(frozen=True)
class Picky:
    """Options.

    Args:
        smooth_beta: distance
    """

    smooth_beta: float = 0.0

    def __post_init__(self):
        if not self.smooth_beta:
            raise ValueError("--smooth-beta must be more than 0")


class HasOptionsThatRefuseTheirDefaults(Angle):
    Options = Picky


class HasADictForAResult(Angle):
    result_class = dict


@dataclass(frozen=True)
class Bare(Result):
    def __init__(self, angle):
        object.__setattr__(self, "angle", angle)


class HasAResultWithoutDefaults(Angle):
    result_class = Bare


class HasAFieldThatItsResultLacks(Angle):
    fields: ClassVar = {"radians": float}


class HasAFieldOfTensors(Angle):
    fields: ClassVar = {"angle": Tensor}


class AnswersWithAnotherField(Angle):
    answer_fields: ClassVar = {"direction": str}


class HasAColumnTwice(Angle):
    def columns(self, top_k):
        return ["angle", "error"]


# Data


class OfAnotherTask(TurnedImages):
    def open_training(self, data, how):
        return replace(super().open_training(data, how), task="classification")


class OpensDataOfAnotherTask(Angle):
    formats = (OfAnotherTask(),)


class WithoutValidation(TurnedImages):
    def drawn(self, samples, held_out):
        return {"train": samples}


class HoldsNothingOut(Angle):
    formats = (WithoutValidation(),)


class HeldOutAnew(TurnedImages):
    def open_evaluation(self, data, how, held_out):
        return super().open_evaluation(data, how, held_out | {"seed": held_out["seed"] + 1})


class HoldsOtherImagesOut(Angle):
    formats = (HeldOutAnew(),)


class HeldOutByAnObject(TurnedImages):
    def open_training(self, data, how):
        source = super().open_training(data, how)
        return replace(source, held_out=source.held_out | {"drawn": Samples})


class HoldsOutByAnObject(Angle):
    formats = (HeldOutByAnObject(),)


class ReadsNoFormat(Angle):
    formats = ()


class Locked(float):
    """An annotation that no other process can get."""

    def __reduce__(self):
        return Lock, ()


class LockedSamples(TurnedImages):
    def samples(self, data):
        samples = super().samples(data)
        return Samples(samples.images, [Locked(angle) for angle in samples.labels])


class HasSamplesForOneProcess(Angle):
    formats = (LockedSamples(),)


class ChangesExamples(Angle):
    """Changes the example that its parent's transform makes."""

    def transform(self, preprocessing, class_names, augmentation=None):
        transform = super().transform(preprocessing, class_names, augmentation)
        return lambda image, angle: self.change(transform(image, angle), image)


class MakesExamplesForOneProcess(ChangesExamples):
    def change(self, example, image):
        return example._replace(target=lambda: example.target)


class TransformsToATuple(ChangesExamples):
    def change(self, example, image):
        return tuple(example)


class TransformsToAnotherSize(ChangesExamples):
    def change(self, example, image):
        return example._replace(image=example.image[:, 1:])


class ForgetsTheTarget(ChangesExamples):
    def change(self, example, image):
        return example._replace(target=None)


class MeasuresDarkerImages(ChangesExamples):
    def change(self, example, image):
        return example._replace(image=example.image / 2)


class SwapsTheSides(ChangesExamples):
    def change(self, example, image):
        return example._replace(geometry=replace(example.geometry, size=(1, 2)))


class Directions(NamedTuple):
    tensor: Tensor


class CollatesToATuple(Angle):
    def collate(self, targets):
        return {"directions": Directions(torch.stack(targets))}


class CollatesToOneRow(Angle):
    def collate(self, targets):
        return torch.cat(targets)


class CannotCollate(Angle):
    def collate(self, targets):
        return torch.stack(targets[0])


# The model


class DescribesATensor(Angle):
    def metadata(self, trained):
        return {"scale": torch.ones(2)}


class HasNoNumberOfOutputs(Angle):
    def num_outputs(self, class_names):
        return None


class CannotBuild(Angle):
    def model(self, backbone, class_names, **args):
        return backbone.head_that_is_lacking


class Headed(nn.Module):
    """A backbone with another head behind it."""

    def __init__(self, backbone, *heads):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)

    def forward(self, images):
        return self.heads[0](self.backbone(images))


class BuildsByValues(Angle):
    def model(self, backbone, class_names, **args):
        assert all(parameter.isfinite().all() for parameter in backbone.parameters())
        return backbone


class BuildsAnotherModelTheSecondTime(Angle):
    def __init__(self):
        self.times = 0

    def model(self, backbone, class_names, **args):
        self.times += 1
        backbone.register_buffer(f"times{self.times}", torch.zeros(1))
        return backbone


class GivesADict(Angle):
    def outputs(self, model):
        return ByName(model)


class ByName(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return {"direction": self.model(images)}


class Transposed(ByName):
    def forward(self, images):
        return self.model(images).T


class PutsTheBatchLast(Angle):
    def outputs(self, model):
        return Transposed(model)


class HasTwoNamesForOneOutput(Angle):
    output_names = ("cosine", "sine")


class CannotBeServed(Angle):
    def model(self, backbone, class_names, **args):
        return Headed(backbone, nn.Linear(2, 2))


class ByValues(ByName):
    def forward(self, images):
        directions = self.model(images)
        return directions if float(directions.sum()) > 0 else 2 * directions


class DecidesByValues(Angle):
    def outputs(self, model):
        return ByValues(model)


class OfOtherNumbers(ByName):
    def forward(self, images):
        return self.model(images) * (2 if torch.compiler.is_exporting() else 1)


class DiffersInGraphs(Angle):
    def outputs(self, model):
        return OfOtherNumbers(model)


# Training


class RefusesItsDefaults(Angle):
    def check(self, options, images_at_once):
        raise ValueError("--smooth-beta 0.1 does not suit the data")


class HasAFunctionForAnObjective(Angle):
    def objective(self, options, source, preprocessing):
        return lambda model, batch: {"loss": model(batch.images).sum()}


class ChangesTheLoss(Angle):
    """Changes the loss of its parent's objective."""

    def objective(self, options, source, preprocessing):
        return Changed(self.change)


class Changed(Objective):
    def __init__(self, change):
        self.change = change

    def __call__(self, model, batch):
        return self.change(AngleObjective(0.1)(model, batch)["loss"])


class HasNoLoss(ChangesTheLoss):
    def change(self, loss):
        return {"angle": loss}


class HasALossForEachImage(ChangesTheLoss):
    def change(self, loss):
        return {"loss": loss.expand(3)}


class HasAnInfiniteLoss(ChangesTheLoss):
    def change(self, loss):
        return {"loss": loss / 0}


class HasALossWithoutGradient(ChangesTheLoss):
    def change(self, loss):
        return {"loss": loss.detach()}


class HasAnInfiniteSlope(ChangesTheLoss):
    def change(self, loss):
        return {"loss": (0 * loss).sqrt()}


class HasAnIdleHead(Angle):
    def model(self, backbone, class_names, **args):
        return Headed(backbone, nn.Linear(2, 2), nn.Linear(2, 2))


# Measuring


class Measuring(Angle):
    Metrics: ClassVar[type]

    def metrics(self, class_names):
        return self.Metrics(class_names)


class HasAFunctionForMetrics(Angle):
    def metrics(self, class_names):
        return dict


class FailsWithoutImages(Measuring):
    class Metrics(AngleMetrics):
        def compute(self):
            return {"degrees": self.kept("error").mean().item()}


class MeasuresWithoutImages(Measuring):
    class Metrics(AngleMetrics):
        def compute(self):
            return super().compute() or {"degrees": 0.0}


class CountsTwice(Measuring):
    class Metrics(AngleMetrics):
        def update(self, outputs, targets):
            super().update(outputs, targets)
            self.images += 1


class LacksItsHeadline(Measuring):
    measures = (Measure("radians", "mean error"), *Angle.measures)
    Metrics = AngleMetrics


class MeasuresMore(Measuring):
    measures = Angle.measures[:1]
    Metrics = AngleMetrics


class MeasuresNaN(Measuring):
    class Metrics(AngleMetrics):
        def compute(self):
            return super().compute() and {"degrees": float("nan")}


class MeasuresTheLastBatch(Measuring):
    class Metrics(AngleMetrics):
        def compute(self):
            return super().compute() and {"degrees": self.kept("error")[-1].item()}


class KeepsASumForItself(Measuring):
    class Metrics(AngleMetrics):
        total = 0.0

        def update(self, outputs, targets):
            super().update(outputs, targets)
            self.total += self.kept("error")[-len(targets) :].sum().item()

        def compute(self):
            return {"degrees": self.total / self.images} if self.images else {}


class NeverForgets(Measuring):
    class Metrics(AngleMetrics):
        def reset(self):
            if not hasattr(self, "images"):
                super().reset()

        def merge(self, states):
            super().reset()
            super().merge(states)


class MeasuresOnNoData(Angle):
    def measures_on(self, other):
        return False


class MatchesNothing(Angle):
    def match(self, source, trained):
        raise ValueError("these are other angles")


class MatchesOtherTargets(Angle):
    def match(self, source, trained):
        return Match([], lambda outputs, targets: (outputs, targets.direction))


class ReportsATensor(Measuring):
    class Metrics(AngleMetrics):
        def report(self):
            return {**super().report(), "errors": self.kept("error")}


class HasATableWithAGap(Angle):
    def tables(self, result):
        return [ResultTable("errors", ["image", "degrees"], [["1"]])]


# Results


class ChangesResults(Angle):
    """Changes the results that its parent makes."""

    def results(self, outputs, geometry, trained, top_k):
        return self.change(super().results(outputs, geometry, trained, top_k))


class ForgetsAnImage(ChangesResults):
    def change(self, results):
        return results[1:]


class GivesNumbers(ChangesResults):
    def change(self, results):
        return [result.angle for result in results]


class ComparesImages(ChangesResults):
    def change(self, results):
        return [replace(result, angle=result.angle - results[0].angle) for result in results]


class TakesNaN(Angle):
    def results(self, outputs, geometry, trained, top_k):
        return super().results([outputs[0].nan_to_num()], geometry, trained, top_k)


class FailsOtherwiseOnNaN(Angle):
    def results(self, outputs, geometry, trained, top_k):
        if outputs[0].isnan().any():
            raise ValueError("nan")
        return super().results(outputs, geometry, trained, top_k)


class Showing(ChangesResults):
    """Gives results of another class."""

    def change(self, results):
        return [self.result_class(angle=result.angle) for result in results]


class ShowsNothing(Showing):
    class result_class(Turn):
        def lines(self):
            return []


class ShowsANumber(Showing):
    class result_class(Turn):
        def lines(self):
            return [Line("turned by", self.angle)]


class ShowsAShareInPercent(Showing):
    class result_class(Turn):
        def lines(self):
            return [Line("turned by", "1", 100.0)]


class DrawsATile(Showing):
    class result_class(Turn):
        def draw(self, image):
            return super().draw(image).resize((8, 8))


class CannotDrawItsTarget(Angle):
    def draw_target(self, image, target, class_names, args):
        raise ValueError("no target here")


class DrawsItsTargetInGrey(Angle):
    def draw_target(self, image, target, class_names, args):
        return image.convert("L")


class DrawsItsTargetOnATile(Angle):
    def draw_target(self, image, target, class_names, args):
        return image.resize((8, 8))


class DrawsItsTargetIntoTheImage(Angle):
    def draw_target(self, image, target, class_names, args):
        image.putpixel((0, 0), (1, 2, 3))
        return image


class DrawsInGrey(Showing):
    class result_class(Turn):
        def draw(self, image):
            return super().draw(image).convert("L")


class DrawsIntoTheImage(Showing):
    class result_class(Turn):
        def draw(self, image):
            image.putpixel((0, 0), (1, 2, 3))
            return image


class ColorsByName(Showing):
    class result_class(Turn):
        def lines(self):
            return [Line("turned by", "1°", color="red")]


class HasASmallOverlay(Showing):
    class result_class(Turn):
        def overlay(self):
            return Image.new("RGBA", (8, 8))


class GivesATensor(ChangesResults):
    def change(self, results):
        return [Turn(angle=torch.tensor(result.angle)) for result in results]


class GivesInfinity(ChangesResults):
    def change(self, results):
        return [Turn(angle=float("inf")) for _ in results]


class HasMoreCellsThanColumns(Angle):
    def cells(self, result):
        return [result.angle, 1.0]


def keeps_all(results, place, trained):
    results = list(results)
    place.write_text(str(results))
    return iter(results)


def writes_nothing(results, place, trained):
    return iter(results)


def writes_copies(results, place, trained):
    for result in results:
        place.write_text(str(result))
        yield replace(result)


class HasAFunctionForAWriter(Angle):
    writers: ClassVar = {"text": writes_nothing}


class HasAWriterOfTwoWords(Angle):
    writers: ClassVar = {"a text": Writer(writes_copies, "a text", (".txt",))}


class HasAWriterThatKeepsAll(Angle):
    writers: ClassVar = {"text": Writer(keeps_all, "a text", (".txt",))}


class HasAWriterThatWritesNothing(Angle):
    writers: ClassVar = {"text": Writer(writes_nothing, "a folder")}


class HasAWriterOfCopies(Angle):
    writers: ClassVar = {"text": Writer(writes_copies, "a text", (".txt",))}


class HasAWriterThatCannotWrite(Angle):
    writers: ClassVar = {"text": Writer(writes_copies, "a text, but into a folder")}


class HasAWriterForImagesWithoutAPlace(Angle):
    writers: ClassVar = {"text": Writer(writes_copies, "a text", (".txt",), georeferenced=True)}


WRONG = [
    (HasNoSummary, "names", "has an empty summary"),
    (HasANameOfTwoWords, "names", "has the name 'Angle of images'"),
    (HasOneHeading, "names", "has 1 headings, not 2"),
    (HasNoMeasure, "measures", "has no measure"),
    (HasAMeasureTwice, "measures", "has the measure 'degrees' twice"),
    (HasAKeyForAMeasure, "measures", "has str among its measures"),
    (HasOptionsOfAClass, "options", "has Options that are no frozen dataclass"),
    (HasAnOptionOfTheLoop, "options", "has an option Options.epochs, a name that the library's own options have"),
    (HasAnOptionOfEval, "options", "has an option EvalOptions.split, a name"),
    (HasATensorForAnOption, "options", "has an option Options.weights of a type that no file of options holds"),
    (HasAnOptionWithoutHelp, "options", "does not explain Options.smooth_beta"),
    (HasAnOptionWithoutDefault, "options", "has an option Options.smooth_beta without a default"),
    (HasOptionsThatRefuseTheirDefaults, "options", "refuses its own Options .*--smooth-beta must be more than 0"),
    (HasADictForAResult, "fields", "has a result_class that is no frozen dataclass of Result"),
    (HasAResultWithoutDefaults, "fields", "has a result_class whose own fields have no defaults"),
    (HasAFieldThatItsResultLacks, "fields", "has the field 'radians', but Turn has no such attribute"),
    (HasAFieldOfTensors, "fields", "has the field 'angle' of another type"),
    (
        AnswersWithAnotherField,
        "fields",
        "has 'direction' among its answer_fields, but not among its fields",
    ),
    (HasAColumnTwice, "fields", "has the column 'error' of a CSV file twice"),
    (ReadsNoFormat, "data", "does not open the data .*is of no format that this task reads"),
    (OpensDataOfAnotherTask, "data", "opens data of the task 'classification', not 'angle'"),
    (HoldsNothingOut, "data", "opens data for training without 'val' images"),
    (HoldsOtherImagesOut, "data", "does not hold out the same images"),
    (HoldsOutByAnObject, "data", "has a held_out that is not ready for JSON"),
    (HasSamplesForOneProcess, "pickling", "has samples whose annotations differ after they are pickled"),
    (MakesExamplesForOneProcess, "pickling", "makes examples that cannot be pickled"),
    (TransformsToATuple, "transform", "transforms an image to tuple, not an Example"),
    (TransformsToAnotherSize, "transform", r"transforms a train image to the shape \(3, 31, 32\), not \(3, 32, 32\)"),
    (ForgetsTheTarget, "transform", "gives no target for a train image"),
    (MeasuresDarkerImages, "transform", "prepares an image for measuring in another way than for predicting"),
    (SwapsTheSides, "transform", "gives another geometry"),
    (CollatesToATuple, "collate", "collates targets to Directions, which stays where it is"),
    (CollatesToOneRow, "collate", r"collates 1 targets to a tensor of the shape \(2,\)"),
    (CannotCollate, "collate", "does not collate its targets"),
    (DescribesATensor, "metadata", "has metadata that is not ready for JSON"),
    (HasNoNumberOfOutputs, "model", "has None outputs"),
    (CannotBuild, "model", "does not build its model .*head_that_is_lacking"),
    (BuildsByValues, "model", "does not build its model on the meta device"),
    (BuildsAnotherModelTheSecondTime, "model", "builds a model with another state dict"),
    (GivesADict, "outputs", "has outputs that give dict, not tensors"),
    (PutsTheBatchLast, "outputs", r"has an output of the shape \(2, \d+\) for \d+ images"),
    (HasTwoNamesForOneOutput, "outputs", "has 2 output_names for 1 outputs"),
    (CannotBeServed, "outputs", "has outputs that the service cannot compute .*forward_features"),
    (DecidesByValues, "export", "has outputs that torch.export does not take"),
    (DiffersInGraphs, "export", "has other outputs after they are exported"),
    (RefusesItsDefaults, "objective", "refuses its own defaults .*does not suit the data"),
    (HasAFunctionForAnObjective, "objective", "has function instead of an Objective"),
    (HasNoLoss, "objective", 'has an objective that gives no "loss"'),
    (HasALossForEachImage, "objective", "has an objective whose loss is no tensor of a single number"),
    (HasAnInfiniteLoss, "objective", "has an objective whose loss is inf"),
    (HasALossWithoutGradient, "objective", "has an objective whose loss has no gradient"),
    (HasAnInfiniteSlope, "objective", "a gradient that is not finite"),
    (HasAnIdleHead, "objective", "has an objective that gives no gradient to heads.1.weight"),
    (HasAFunctionForMetrics, "metrics", "has type instead of Metrics"),
    (FailsWithoutImages, "metrics", "has metrics that fail without images"),
    (MeasuresWithoutImages, "metrics", "has metrics that give {'degrees': 0.0} without images"),
    (CountsTwice, "metrics", r"has metrics that count \d+ of \d+ images"),
    (LacksItsHeadline, "metrics", "has metrics without its first measure, 'radians'"),
    (MeasuresMore, "metrics", "has metrics that give 'loss', which is not among its measures"),
    (MeasuresNaN, "metrics", "has metrics that give nan for 'degrees'"),
    (MeasuresTheLastBatch, "metrics", "for 'degrees' on several devices, and"),
    (KeepsASumForItself, "metrics", "for 'degrees' on several devices, and"),
    (NeverForgets, "metrics", "has metrics that keep images when they are reset"),
    (MeasuresOnNoData, "report", "does not measure on data of its own"),
    (MatchesNothing, "report", "does not match its own data with its model .*other angles"),
    (MatchesOtherTargets, "report", "has metrics that do not take what its match gives"),
    (ReportsATensor, "report", "has metrics whose report is not ready for JSON"),
    (HasATableWithAGap, "report", "has a row of 1 cells under 2 columns in the table 'errors'"),
    (ForgetsAnImage, "results", r"gives \d+ results for \d+ images"),
    (GivesNumbers, "results", "gives float, not Turn"),
    (ComparesImages, "results", "gives another result for an image when it is alone"),
    (TakesNaN, "finite", "raises no RuntimeError for outputs of NaN, but gives"),
    (FailsOtherwiseOnNaN, "finite", "raises no RuntimeError for outputs of NaN, but another .ValueError: nan"),
    (ShowsNothing, "lines", "has a result without a line"),
    (ShowsANumber, "lines", "has a result with a line that is no Line of two texts"),
    (ShowsAShareInPercent, "lines", "has a result with a line whose share is 100.0"),
    (DrawsATile, "lines", r"draws on an image of \(32, 32\) pixels, and gives one of \(8, 8\)"),
    (DrawsInGrey, "lines", "draws an image of mode L, not RGB"),
    (DrawsIntoTheImage, "lines", "draws into the image that it is given"),
    (ColorsByName, "lines", "has a result with a line whose color is 'red'"),
    (HasASmallOverlay, "lines", "has a result with an overlay that is no RGBA image of the image's size"),
    (CannotDrawItsTarget, "targets", "has a target that cannot be drawn .*no target here"),
    (DrawsItsTargetInGrey, "targets", "draws a target on an image of mode L, not RGB"),
    (DrawsItsTargetOnATile, "targets", r"on an image of \(32, 32\) pixels, and gives one of \(8, 8\)"),
    (DrawsItsTargetIntoTheImage, "targets", "draws a target into the image that it is given"),
    (GivesATensor, "rows", r"has a result with tensor\(.*\) in the field 'angle'"),
    (GivesInfinity, "rows", "has a result that is not ready for JSON"),
    (HasMoreCellsThanColumns, "rows", "has 2 cells for the 1 columns"),
    (HasAFunctionForAWriter, "writers", "has function among its writers"),
    (HasAWriterOfTwoWords, "writers", "has a writer 'a text', a name that --save cannot have"),
    (HasAWriterThatKeepsAll, "writers", "has the writer 'text', which takes results before they are asked for"),
    (HasAWriterForImagesWithoutAPlace, "writers", "has the writer 'text', which takes images that have no coordinates"),
    (HasAWriterThatWritesNothing, "writers", "has the writer 'text', which writes nothing"),
    (HasAWriterOfCopies, "writers", "has the writer 'text', which does not pass results on as they are"),
    (HasAWriterThatCannotWrite, "writers", "has the writer 'text', which fails"),
]


@pytest.mark.parametrize(("wrong", "name", "message"), WRONG, ids=[task.__name__ for task, _, _ in WRONG])
def test_refuses(wrong, name, message, data):
    with pytest.raises(AssertionError, match=f"^{wrong.__name__} .*{message}.*[.]$"):
        check_task(wrong(), data, model="test_resnet", skip=[other for other in PROPERTIES if other != name])


def test_every_property_has_a_task_without_it():
    assert {name for _, name, _ in WRONG} == set(PROPERTIES)


@pytest.mark.parametrize("wrong", [HasNoMeasure, HasAnIdleHead, DrawsATile])
def test_refuses_with_all_properties(wrong, data):
    with pytest.raises(AssertionError, match=f"^{wrong.__name__} "):
        check_task(wrong(), data, model="test_resnet")


def test_a_class_is_no_task(data):
    with pytest.raises(AssertionError, match=r"^Angle is no object of a subclass of glocal\.tasks\.task\.Task\.$"):
        check_task(Angle, data)


def test_the_random_numbers_of_the_caller_go_on(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_task(ANGLE, data, model="test_resnet")
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_property_to_skip_is_an_error(data):
    with pytest.raises(ValueError, match=r"skip may hold names, .*, not speed"):
        check_task(ANGLE, data, skip=["speed"])
