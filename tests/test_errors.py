"""The errors that a user should read are one family, and the library raises no others for what the user can reach."""

import ast
import builtins
import pickle
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from glocal import errors
from glocal.cli.parser import UsageError
from glocal.data.image import UnreadableImageError
from glocal.deploy.files import ExportMismatchError
from glocal.errors import UserError, WorkError
from glocal.models.build import NoWeightsError
from glocal.safe_yaml import YamlError
from glocal.training.lightning_module import TrainingStopped
from glocal.training.stopping import TrainingInterrupted

SOURCE = Path(__file__).parent.parent / "src" / "glocal"

# What a user's command, file or argument can reach.
REACHED = [
    *(SOURCE / f"{name}.py" for name in ("options", "trust", "files", "device", "safe_yaml")),
    *(SOURCE / "models" / f"{name}.py" for name in ("__init__", "arguments", "build", "official")),
    *(
        file
        for folder in ("cli", "bench", "deploy", "training", "evaluation", "tasks", "data")
        for file in sorted((SOURCE / folder).rglob("*.py"))
    ),
]
# (file, function) → why it raises an error of Python's own.
OWN_RAISES = {
    ("files.py", "written_atomically"): "the system's error with its number, and now with the name of the file",
    ("training/train.py", "_explained"): "the system's error with its number, and now with the name of the file",
    ("deploy/engine.py", "__call__"): "images of a wrong shape, which only a mistake in code gives",
    ("deploy/batching.py", "submit"): "a mistake in the service's own code",
    ("deploy/batching.py", "_computed"): "a mistake in the service's own code",
    **{
        (file, "__getattr__"): "Python expects this error of a __getattr__"
        for file in ("deploy/__init__.py", "cli/train.py", "cli/eval.py", "tasks/task.py")
    },
    ("data/objects.py", "__post_init__"): "arrays of wrong shapes, which formats do not give",
    ("tasks/task.py", "lines"): "a task that lacks what it has to have",
    ("tasks/task.py", "load"): "a task that lacks what it has to have",
    ("tasks/segmentation/metrics.py", "confusion_matrix"): "maps of wrong sizes or labels, which formats do not give",
    ("tasks/segmentation/panoptic.py", "panoptic_quality"): "maps of wrong sizes, which formats do not give",
    ("tasks/segmentation/panoptic.py", "_check"): "segments that do not exist, which formats do not give",
}
# (file, class) → why it is in no family.
OWN_CLASSES = {
    ("deploy/record.py", "NotRecordedError"): "`compile` catches it and goes another way",
    ("deploy/batching.py", "BusyError"): "the service answers it with 503",
}


def of_python(name: str) -> bool:
    """Whether a name is an error's of Python's own; KeyboardInterrupt and SystemExit are no errors."""
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, Exception)


def raises(path: Path) -> list[tuple[str, int]]:
    """(function, line) of every `raise` of an error of Python's own, or of one whose class is computed."""
    found = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if (isinstance(raised, ast.Name) and of_python(raised.id)) or isinstance(raised, ast.Call):
                found.append((function, node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", REACHED, ids=name_of)
def test_a_user_meets_errors_of_the_family_only(path):
    plain = [f"{path}:{line}" for function, line in raises(path) if (name_of(path), function) not in OWN_RAISES]
    assert not plain, "raise an error of glocal.errors"


def test_every_exception_to_the_rule_is_needed():
    assert {(name_of(path), function) for path in REACHED for function, _ in raises(path)} == set(OWN_RAISES)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("raise ValueError('x')", True),
        ("raise OSError", True),
        ("raise type(error)('x')", True),
        ("raise InvalidValueError('x')", False),
        ("raise KeyboardInterrupt", False),
        ("raise error", False),
    ],
)
def test_the_rule_sees(tmp_path, statement, found):
    (tmp_path / "x.py").write_text(f"def f(error):\n    if error:\n        {statement}\n")
    assert raises(tmp_path / "x.py") == ([("f", 3)] if found else [])


def test_new_errors_belong_to_the_family():
    outside = {
        (name_of(path), node.name)
        for path in REACHED
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and of_python(base.id) for base in node.bases)
    }
    assert outside == set(OWN_CLASSES)


@pytest.mark.parametrize(
    ("kind", "of_python"),
    [
        (errors.InvalidValueError, ValueError),
        (errors.InvalidTypeError, TypeError),
        (errors.MissingExtraError, ImportError),
        (errors.PathError, OSError),
        (errors.MissingPathError, FileNotFoundError),
        (errors.ExistingPathError, FileExistsError),
        (errors.NotAFolderError, NotADirectoryError),
        (errors.NotAFileError, IsADirectoryError),
        (errors.ForbiddenPathError, PermissionError),
        (UnreadableImageError, OSError),
        (UsageError, ValueError),
        (YamlError, ValueError),
    ],
)
def test_a_mistake_of_the_user_is_also_of_the_type_that_callers_catch(kind, of_python):
    assert issubclass(kind, UserError)
    assert issubclass(kind, of_python)
    assert kind.exit_code == 2


@pytest.mark.parametrize("kind", [TrainingStopped, TrainingInterrupted, ExportMismatchError, NoWeightsError])
def test_work_that_failed_is_a_runtime_error(kind):
    assert issubclass(kind, WorkError)
    assert issubclass(kind, RuntimeError)
    assert kind.exit_code == 1  # of the class; a TrainingInterrupted has that of its signal


EVERY = [
    *(
        kind("what is wrong")
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, (UserError, WorkError))
    ),
    UsageError("--epochs needs a value"),
    YamlError("more than one document"),
    UnreadableImageError("a.png", "not an image"),
    NoWeightsError("van_b7", None),
    ExportMismatchError("it differs"),
    TrainingStopped("the loss is nan"),
    TrainingInterrupted("stopped by SIGTERM", 15),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_errors_cross_to_other_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.exit_code, vars(copy)) == (str(error), error.exit_code, vars(error))


class Broken:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise errors.MissingPathError("there is no file 'a.png'")


def test_an_error_in_a_process_that_reads_images_keeps_its_type():
    with pytest.raises(errors.MissingPathError, match=r"there is no file 'a\.png'"):
        list(DataLoader(Broken(), num_workers=1))


@pytest.mark.parametrize(
    "of_system", [FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError, OSError]
)
def test_an_error_of_the_system_keeps_its_type(of_system):
    error = errors.path_error(of_system(1, "no"), "the folder 'x' cannot be read: no")
    assert isinstance(error, of_system)
    assert isinstance(error, errors.PathError)
    assert str(error) == "the folder 'x' cannot be read: no"


def test_a_rare_error_of_the_system_is_a_path_error():
    assert type(errors.path_error(TimeoutError(), "no answer")) is errors.PathError
