"""Command lines and YAML from hell: each ends as a run or in one line, quickly, and writes nothing where it should not.

What a command line says is read as always; the command itself does nothing where only the reading is tried.
"""

import importlib
import io
import random
import signal
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields

import pytest
import yaml

from glocal import cli
from glocal.training.config import TrainConfig
from hostile.watch import watching

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS, SECONDS_AT_WORK = 10, 120  # a command at work imports, trains and exports
COMMANDS = tuple(cli.COMMANDS)
ACTING = set(map(chr, [*range(10), *range(11, 32), *range(127, 160)])) | set("\u2028\u2029\u202d\u202e\u2066\u2067")

NUMBERS = [
    *["0", "1", "-1", "2", "0.5", "1.5", "-0", "007", "+3", "1_000", "0x10", "1e3", "1e-3", "1e30", "1e300", "1e999"],
    *["-1e999", "nan", "-nan", "inf", ".inf", "-.inf", ".nan", "1:30", "²", "٣", "1,2", "224,256", "0,0"],
    *["1e5,3", "3x4"],
    *["9" * digits for digits in (18, 19, 20, 31, 310, 400, 4299, 4301, 5000)],
]
TEXTS = [
    *["", " ", "-", "--", "---", ".", "..", "/", "//", "~", "null", "None", "true", "no", "on", "digits", "x" * 5000],
    *["\x1b[2J", "a\nb", "a\rb", "\x9b31m", "\u202egpj", "\u2028", "日本語", "é", "caf\udce9", "%s%n", "{0}"],
    *["$(touch x)"],
    *["[", "]", "{", "}", "[[", "{}", "[]", "{a: b}", "{a", "a:", "a: b: c", "&a", "*a", "!!bool x", "- a", "#"],
    *["'", '"'],
    *["!!python/object/apply:os.system [touch x]", "&a [*a]", "|", ">", "%", "@", "`", "? a", "<<", "=", "2020-13-01"],
    *["pipe:touch x", "hf:", "hf:a:b", "hf-hub:a/b", "local-dir:/etc", "{a..b}.tar", "{0..9", "*.tar", "file:x"],
    *["a.csv"],
    *["test_resnet", "van_pico", "van_pico.", "van_pico,a=1", "rand-m9", "stem", "1%", "200%", "cpu", "cuda:99"],
    *["auto"],
    *["/dev/null", "/dev/zero", "/etc/passwd", "/proc/self/mem", "no/such/folder", "x.json", "x.onnx"],
    "[" * 3000,
    "{a: " * 3000,
]
WHOLE_FILES = [
    "",
    "\0",
    "\ufeffepochs: 1",
    "- 1",
    "1: 2",
    "null",
    "epochs",
    "? [a]\n: b",
    "{}",
    "---\nepochs: 1\n---\nepochs: 2",
    "%YAML 9.9\n---\na: b",
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "&a {model_args: *a}",
    "&a [*a]",
    "model_args: &a {b: *a}",
    "balanced: !!bool x",
    "epochs: !!int x",
    "lr: !!float x",
    "data: !!binary x",
    "data: !!timestamp x",
    "data: !!python/object/apply:os.system [touch x]",
    "data: !!set {a, b}",
    "<<: {epochs: 3}",
    "<<: *a",
    "epochs: 1\nepochs: 2",
    "model_args: " + "[" * 20_000,
    "model_args: " + "{a: " * 5_000,
    "model_args:\n" + "".join(f"{' ' * depth}a:\n" for depth in range(1, 200)),
    "lr: " + "1" * 400,
    "lr: " + "1" * 70_000,
    "x: y\n" * 20_000,
    "data: " + "x" * 60_000,
    "epochs: " + ":".join(["59"] * 10_000),
    '"\\ud800": 1',
    'data: "\\0"',
    'output: "a\\0b"',
    "model_args: {1: 2}",
    "model_args: {[a]: 2}",
    "compare: a",
    "images: a",
    "images: [null, 3, [a]]",
    "config: c.yaml",
    "recipe: finetune",
    "trust: true",
    "print_config: true",
    "help: true",
]


class TooLongError(Exception):
    """A try that takes too long."""


@contextmanager
def _in_time(seconds: int):
    def stop(number, frame):
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _attempt(args: list[str], folder, seconds: int = SECONDS) -> str:
    """What is wrong with how a command line ends; an empty text where nothing is."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with watching(folder) as outside, _in_time(seconds), redirect_stdout(out), redirect_stderr(err):
            code = cli.main(args)
    except SystemExit as stop:  # of --help and --print-config
        code = stop.code
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    lines = err.getvalue().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if code not in (0, 1, 2) or (code > 0) != bool(errors) or (code == 2 and len(errors) > 1):
        return f"exit code {code}, {len(errors)} error lines"
    if ACTING & set(err.getvalue()) or ACTING & set(out.getvalue()):
        return "what acts on a terminal came out"
    return "; ".join(outside)


def _options(command: str) -> list[str]:
    config = importlib.import_module(f"glocal.cli.{command}").CONFIG
    names = [f"--{field.name.replace('_', '-')}" for field in fields(config)]
    return [
        *names,
        "--config",
        "--print-config",
        "--trust",
        "--help",
        "--recipe",
        "--no-such",
        "--model-args.a",
        "--lr+",
    ]


def _command_line(draw: random.Random) -> list[str]:
    """A command, and up to five options and arguments, sensible and not."""
    command = draw.choice(COMMANDS)
    args, options = [command], _options(command)
    for _ in range(draw.randrange(6)):
        name, value = draw.choice(options), draw.choice(draw.choice([NUMBERS, TEXTS]))
        value = value + draw.choice(TEXTS) if draw.random() < 0.1 else value
        kind = draw.randrange(8)
        if kind == 0:
            args.append(value)
        elif kind == 1:
            args.append(f"{name}={value}")
        elif kind == 2:
            args.append(name)
        elif kind == 3:
            args.append(draw.choice([name.replace("--", "--no-"), name.replace("-", "_"), name[:-1], name.upper()]))
        else:
            args += [name, value]
    draw.shuffle(tail := args[1:])
    return [command, *tail]


def _yaml(draw: random.Random) -> bytes:
    """A file of options: whole ones that are known to hurt, options with odd values, and damaged ones."""
    if draw.random() < 0.2:
        return draw.choice(WHOLE_FILES).encode("utf-8", "surrogatepass")
    names = [field.name for field in fields(TrainConfig)]
    lines = []
    for _ in range(draw.randrange(1, 6)):
        value = draw.choice(draw.choice([NUMBERS, TEXTS, WHOLE_FILES]))
        value = draw.choice(
            [value, f"[{value}]", f"{{a: {value}}}", f"'{value}'", f'"{value}"', f"!!{value}", f"|\n  {value}"]
        )
        lines.append(f"{draw.choice(names)}: {value}")
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    if draw.random() < 0.5:
        return content
    damaged = bytearray(content)
    for _ in range(draw.randrange(1, 9)):
        place = draw.randrange(len(damaged) + 1)
        damaged[place : place + draw.randrange(3)] = draw.choice(
            [b"", b":", b"\t", b"\n", b"{", b"]", b"&", b"*", b"!", b"\xff", b"\0", b"'"]
        )
    return bytes(damaged)


@pytest.fixture
def reading_only(monkeypatch):
    """Commands that read their command line and do nothing."""
    for name in COMMANDS:
        monkeypatch.setattr(importlib.import_module(f"glocal.cli.{name}"), "run", lambda config: 0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _failures(tries) -> list[str]:
    return [f"{name}: {wrong}" for name, wrong in tries if wrong]


def _command_lines(folder, count: int) -> list[str]:
    lines = (_command_line(random.Random(seed)) for seed in range(count))
    return _failures((f"{line}"[:300], _attempt(line, folder)) for line in lines)


def _yaml_files(folder, count: int) -> list[str]:
    """Files for --config of several commands, and as the config.yaml of a run to go on with."""
    file, run = folder / "c.yaml", folder / "run"
    run.mkdir()
    wrong = []
    for seed in range(count):
        draw = random.Random(seed)
        content = _yaml(draw)
        if seed % 3:
            file.write_bytes(content)
            args = [draw.choice(["train", "train", "eval", "predict", "bench", "export"]), "--config", str(file)]
        else:
            (run / "config.yaml").write_bytes(content)
            args = ["train", "--output", str(run), "--resume"]
        wrong += _failures([(f"{args} {content[:200]!r}", _attempt(args, folder))])
    return wrong


def test_a_sample_of_command_lines(reading_only, folder):
    assert _command_lines(folder, 60) == []


def test_a_sample_of_yaml(reading_only, folder):
    assert _yaml_files(folder, 60) == []


@pytest.mark.slow
def test_command_lines(reading_only, folder):
    assert _command_lines(folder, 6000) == []


@pytest.mark.slow
def test_yaml(reading_only, folder):
    assert _yaml_files(folder, 4000) == []


BASES = [
    [
        "train",
        "digits",
        "--model",
        "test_resnet",
        "--quick",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--output",
        "out/run",
        "--overwrite",
    ],
    ["eval", "digits", "--checkpoint", "run", "--device", "cpu"],
    ["predict", "photos", "--checkpoint", "run", "--engine", "torch", "--device", "cpu"],
    ["bench", "test_resnet", "--baseline", "test_resnet", "--sizes", "32", "--rounds", "1"],
    ["export", "--checkpoint", "run", "--output", "out/x.onnx"],
    ["list"],
    ["info", "van_pico"],
]


def _runs(folder, checkpoint, count: int) -> list[str]:
    """Commands that do their work, with one or two odd options."""
    from PIL import Image

    (folder / "run").symlink_to(checkpoint)
    (folder / "out").mkdir()
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "photos" / "a\x1b[2J.png")
    wrong = []
    for seed in range(count):
        draw = random.Random(seed)
        base = BASES[seed % len(BASES)]
        names = [name for name in _options(base[0]) if name not in ("--epochs", "--quick", "--rounds", "--help")]
        args = [*base]
        for _ in range(draw.randrange(1, 3)):
            args += [draw.choice(names), draw.choice(draw.choice([NUMBERS, TEXTS]))]
        wrong += _failures([(f"{args}"[:400], _attempt(args, folder, SECONDS_AT_WORK))])
    return wrong


@pytest.mark.slow
def test_commands_at_work(folder, checkpoint, monkeypatch):
    for name in ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"):  # what libraries keep for themselves
        monkeypatch.setenv(name, str(folder / "cache"))
    assert _runs(folder, checkpoint, 300) == []


def test_a_good_file_is_taken(reading_only, folder):
    """The campaign's files differ from one that passes by what is odd in them."""
    options = {field.name: getattr(TrainConfig(), field.name) for field in fields(TrainConfig)}
    (folder / "c.yaml").write_text(yaml.safe_dump(options))
    assert cli.main(["train", "--config", "c.yaml"]) == 0
