"""Without an extra its tests are left out, and say which it is."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import extras

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("library", "extra"),
    [
        ("lightning", "train"),
        ("sklearn", "train"),
        ("imagecorruptions", "robustness"),
        ("webdataset", "data"),
        ("transformers", "dfine"),
        ("rasterio", "geo"),
        ("av", "video"),
        ("supervision", "supervision"),
        ("onnxruntime", "export"),
        ("nncf", "int8"),
        ("fastapi", "serve"),
        ("ray", "cluster"),
        ("xdist", "dev"),
    ],
)
def test_extras_are_those_of_the_package(library, extra):
    assert extras.extra_of()[library] == extra


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'nncf'", name="nncf"), "pip install 'glocal[int8]'"),
        (ModuleNotFoundError("No module named 'ray.data'", name="ray.data"), "pip install 'glocal[cluster]'"),
        (ImportError("training needs Lightning: pip install 'glocal[train]'"), "training needs Lightning"),
    ],
)
def test_a_missing_library_is_told_with_its_extra(error, said):
    assert said in extras.missing(error)
    wrapped = RuntimeError("ImportError while importing test module")
    wrapped.__cause__ = error
    assert said in extras.missing(wrapped)


@pytest.mark.parametrize("error", [ImportError("cannot import name 'x'", name="glocal"), ValueError("nncf"), None])
def test_a_mistake_of_the_library_is_none(error):
    assert extras.missing(error) is None


@pytest.mark.parametrize(("name", "outcome"), [("nncf", "skipped"), ("nonsense", "failed")])
def test_a_module_is_skipped_for_want_of_a_library_of_an_extra(monkeypatch, tmp_path, name, outcome):
    monkeypatch.setitem(sys.modules, name, None)
    call = pytest.CallInfo.from_call(lambda: importlib.import_module(name), "collect")
    report = SimpleNamespace(call=call, failed=True, outcome="failed", longrepr="a traceback")
    extras.skip_where_missing(report, tmp_path / "test_it.py")
    assert report.outcome == outcome
    if outcome == "skipped":
        said = "Skipped: nncf is not installed: pip install 'glocal[int8]'"
        assert report.longrepr == (str(tmp_path / "test_it.py"), None, said)


@pytest.mark.slow  # starts pytest again
def test_modules_are_skipped_and_name_the_extra(tmp_path):
    (tmp_path / "blocked.py").write_text(
        "import sys\nfor name in ('lightning', 'webdataset'): sys.modules[name] = None\n"
    )
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-rs", "-p", "no:cacheprovider", "-p", "blocked"]
    modules = ["tests/training/test_muon.py", "tests/data/formats/test_shards.py"]
    result = subprocess.run(
        [*command, *modules], cwd=ROOT, capture_output=True, text=True, env=environment(tmp_path), timeout=120
    )
    assert "glocal[train]" in result.stdout, result.stdout
    assert "needs the extra [data]" in result.stdout
    assert "error" not in result.stdout.lower()


def environment(folder):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
