"""Makes wrong changes to a copy of the library, one at a time, and runs the tests that should notice each.

    python tests/mutations/run.py                         # all changes; prints what nobody noticed
    python tests/mutations/run.py shards resume           # those with one of these words in them
    python tests/mutations/run.py --write docs/testing.md # all, and the table in that page anew

The changes are in the YAML files beside this one: `file` below src/glocal, `was` (a text that stands there once),
`becomes`, `suffers` (what a user would, in a few words) and `tests`.
"""

import argparse
import contextlib
import importlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "docs", "README.md", "pyproject.toml")
# Imported once here: every change is tried in a forked child, which then starts at once.
HEAVY = ("torch", "torchvision", "timm", "lightning.pytorch", "torchmetrics", "sklearn.datasets", "webdataset")
SECONDS = 300  # for the tests of one change
BEGIN, END = "<!-- table of changes -->\n", "<!-- end of the table -->\n"


@dataclass(frozen=True)
class Change:
    file: str
    was: str
    becomes: str
    suffers: str
    tests: str

    def make(self, tree: Path) -> None:
        """Change the file in a copy of the library; RuntimeError where its text has moved on."""
        path = tree / "src/glocal" / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.was) != 1:
            raise RuntimeError(f"{self.file}: {self.was!r} stands there {text.count(self.was)} times")
        path.unlink()  # the copies are links to the same files
        path.write_text(text.replace(self.was, self.becomes), encoding="utf-8")


class FirstFailure:
    """Keeps the name of the first test that fails."""

    def __init__(self):
        self.name = ""

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report) -> None:
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (cannot be imported)"


def read_changes(words: list[str]) -> list[Change]:
    changes = []
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        changes += [Change(**one) for one in yaml.safe_load(path.read_text(encoding="utf-8"))]
    return [one for one in changes if not words or any(word in str(one) for word in words)]


@contextlib.contextmanager
def copy():
    with tempfile.TemporaryDirectory(prefix="glocal-changed-") as folder:
        for name in COPIED:
            source, target = ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                os.link(source, target)
        yield Path(folder)


def in_child(tree: Path, tests: list[str], result) -> None:
    os.setsid()
    os.chdir(tree)
    with open(tree / "output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ |= {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(tree / "src"))
    sys.dont_write_bytecode = True
    glocal = importlib.import_module("glocal")
    assert Path(glocal.__file__).is_relative_to(tree), glocal.__file__
    failure = FirstFailure()
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests], plugins=[failure])
    result.send((int(code), failure.name))
    sys.stdout.flush()
    os._exit(0)  # without waiting for what the tests have left running


def run(tree: Path, tests: list[str]) -> tuple[int | None, str]:
    """pytest's exit code and the first test that failed; no code where the tests did not end."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=in_child, args=(tree, tests, theirs))
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else (None, "it never ends")
    except EOFError:
        return None, "the process dies"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.join()


def noticed_by(change: Change) -> str | None:
    """The first test that fails, None where all pass; RuntimeError for a change or tests that are not there."""
    with copy() as tree:
        change.make(tree)
        code, name = run(tree, change.tests.split())
        if code not in (0, 1, None):
            output = (tree / "output.txt").read_text(encoding="utf-8")
            raise RuntimeError(f"{change.file}: {change.tests}: pytest ended with {code}:\n{output[-2000:]}")
        return name if code != 0 else None


def check_unchanged(changes: list[Change]) -> None:
    """Raise RuntimeError where the tests fail without a change."""
    tests = sorted({test for change in changes for test in change.tests.split()})
    with copy() as tree:
        code, name = run(tree, tests)
        if code != 0:
            raise RuntimeError(f"without a change: {name}\n{(tree / 'output.txt').read_text()[-2000:]}")


def table(results: list[tuple[Change, str | None]]) -> str:
    """A table per file; the code stands last, because it is the longest."""
    lines = []
    results = sorted(results, key=lambda result: result[0].file)  # two files of a folder may alternate in the YAML
    for file, of_file in itertools.groupby(results, key=lambda result: result[0].file):
        lines += ["", f"### `{file}`", "", "| effect on a user | noticed by | change |", "|---|---|---|"]
        for change, name in of_file:
            was, becomes = (" ".join(text.split()).replace("|", "\\|") for text in (change.was, change.becomes))
            name = "**none**" if name is None else f"`{name.rpartition('/')[2].partition('[')[0]}`"
            becomes = f"`{becomes}`" if becomes else "nothing"
            lines.append(f"| {change.suffers} | {name} | `{was}` → {becomes} |")
    return "\n".join(lines).removeprefix("\n") + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only the changes with one of these words")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="changes tried at a time")
    parser.add_argument("--write", type=Path, help="page whose table is to be written anew")
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests without a change first")
    options = parser.parse_args()
    changes = read_changes(options.words)
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, as in tests/conftest.py
    for name in HEAVY:
        importlib.import_module(name)
    if not options.unchecked:
        check_unchanged(changes)
    with ThreadPoolExecutor(options.jobs) as pool:
        tried = [(change, pool.submit(noticed_by, change)) for change in changes]
        results, failures = [], 0
        for change, future in tried:
            try:
                results.append((change, future.result()))
                print(f"{change.file}: {change.suffers}: {results[-1][1] or 'NOBODY NOTICES'}", flush=True)
            except RuntimeError as error:
                failures += 1
                print(f"NOT TRIED: {error}", flush=True)
    noticed = sum(name is not None for _, name in results)
    print(f"{noticed} of {len(results)} changes are noticed; {failures} were not tried")
    if failures:
        return 2
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        count = f"The tests notice {noticed} of {len(results)} changes.\n\n"
        options.write.write_text(f"{before}{BEGIN}\n{count}{table(results)}\n{END}{after}", encoding="utf-8")
    return 0 if noticed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
