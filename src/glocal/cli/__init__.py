"""The command `glocal`: finds the command's module, runs it, and turns errors into one line and an exit code.

A command is a module of this package with CONFIG (a dataclass), POSITIONAL (which of its fields are given by place)
and run(config) -> exit code, optionally find_recipe, recipe_names, find_run and check_untrusted
(see `CommandParser`), and a line in COMMANDS. Its docstring is its help.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from importlib import import_module

from glocal.device import keep_freed_memory
from glocal.errors import UserError, WorkError
from glocal.wording import one_line, printable, tame_libraries

COMMANDS = {
    "list": "list the models, their cost and their weights",
    "info": "show the stages of a model",
    "train": "train a model on your images",
    "eval": "measure a trained model on a folder of images",
    "predict": "say what is on images",
    "embed": "write the features of images as Parquet files",
    "serve": "answer requests over HTTP, with a page to try it",
    "export": "write a model as one file for ONNX, OpenVINO or torch.export",
    "bench": "time models side by side",
    "doctor": "say which backend computes each op here, and why",
}

OWN_SIGNALS = ("train", "serve")  # they finish something first
OUT_OF_MEMORY = (
    "out of memory: try a smaller --batch-size or --img-size, and in training --accumulate or --grad-checkpointing ({})"
)

# Threads that wait by sleeping, not by spinning: on two idle cores a small model trains a tenth slower, beside another
# busy process five times as fast (measured: 90-160 against 15-30 images/s). OpenMP reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 1 failed, 2 wrong request, 130 or 143 stopped by a signal."""
    args = [*(sys.argv[1:] if args is None else args)]  # in this package `list` is a command
    _log_to_stderr()
    tame_libraries()
    for stream in (sys.stdout, sys.stderr):  # file names may hold what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_overview())
            return 0 if args else 2
        if args[0] == "--version":
            from glocal import __version__

            print(f"glocal {__version__}")
            return 0
        name, *rest = args
        if name not in COMMANDS:
            kind = "option" if name.startswith("-") else "command"
            known = ("--help", "--version") if kind == "option" else tuple(COMMANDS)
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            return _fail(f"unknown {kind} {name!r}; {hint}", 2)

        from glocal.cli.parser import CommandParser

        command = import_module(f"glocal.cli.{name}")
        parser = CommandParser(
            f"glocal {name}",
            command.CONFIG,
            command.POSITIONAL,
            command.__doc__,
            find_recipe=getattr(command, "find_recipe", None),
            recipe_names=getattr(command, "recipe_names", None),
            find_run=getattr(command, "find_run", None),
        )
        config = parser.parse(rest)
        if parser.notes:
            from glocal.device import is_rank_zero

            for note in parser.notes if is_rank_zero() else ():
                print(printable(note), flush=True)
        if parser.untrusted and hasattr(command, "check_untrusted"):
            command.check_untrusted(config, parser.untrusted)
        keep_freed_memory()
        with nullcontext() if name in OWN_SIGNALS else _tidy_end():
            return command.run(config)
    except _TerminatedError:
        return _fail("stopped by SIGTERM", 143)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "stopped", 130)
    except BrokenPipeError:  # the reader of our output has gone, as in `glocal … | head`
        sys.stderr.close()
        return 1
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        return _fail(OUT_OF_MEMORY.format(one_line(error, first_only=True)) if _lacks_memory(error) else error, code)


def _exit_code(error: Exception) -> int | None:
    """2 for a wrong request of the user, 1 for work that failed, None for a bug, whose traceback should be seen.

    `glocal.errors` has the library's own errors. Of all others, only what the system refuses is no bug: memory, a file.
    """
    if _lacks_memory(error):
        return 1
    if isinstance(error, (UserError, WorkError)):
        return error.exit_code
    return 1 if isinstance(error, OSError) and error.errno is not None else None


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "t allocate memory" in str(error)


class _TerminatedError(KeyboardInterrupt):
    """What SIGTERM raises; libraries let it pass as they do Ctrl-C."""


@contextmanager
def _tidy_end():
    """Let SIGTERM end a command as Ctrl-C does, so that nothing half-written stays."""

    def end(number, frame):
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _fail(message: object, code: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: glocal COMMAND [options]\n\n"
        "Vision backbones that mix global attention and local convolution.\n\n"
        f"commands:\n{commands}\n\n"
        "  glocal COMMAND --help   the options of a command\n"
        "  glocal --version        the version"
    )


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at the time, so that a progress bar can print above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"note: {one_line(record.getMessage())}", file=sys.stderr)


def _log_to_stderr() -> None:
    logger = logging.getLogger("glocal")
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler(logging.INFO))
