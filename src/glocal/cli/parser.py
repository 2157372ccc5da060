"""The argument parser of every command: options from a dataclass, and errors in one line."""

import re
from argparse import SUPPRESS, ArgumentError, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ActionConfigFile, ActionYesNo, DefaultHelpFormatter


class UsageError(ValueError):
    """A command line that cannot be understood."""


class HelpFormatter(DefaultHelpFormatter):
    """Shows a default only where it says something, no Python types, and the paragraphs of a description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(HelpFormatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))

    def _get_help_string(self, action) -> str:
        text = action.help or ""
        if action.default in (None, False, SUPPRESS) or "default" in text or not action.dest.isidentifier():
            return text
        return f"{text} (default: {action.default})"


class CommandParser(jsonargparse.ArgumentParser):
    """Parses one command.

    config: dataclass whose docstring describes its fields. The fields named in `positional` (name: nargs) are given by
    place, the others as options: `val_fraction` as --val-fraction, a bool as --flag and --no-flag.
    find_recipe: turns a name, and the name of a model to check it with, into a YAML file of options; with it there is
        --recipe NAME.
    find_run: turns the values of --output and --resume into the YAML file of options of the run to go on with, or None.
    """

    def __init__(
        self,
        prog: str,
        config: type,
        positional: dict[str, str],
        description: str,
        find_recipe: Callable[..., Path] | None = None,
        find_run: Callable[[str | None, bool], Path | None] | None = None,
    ):
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            print_config="--print-config",
        )
        self.config_class = config
        self.find_recipe = find_recipe
        self.find_run = find_run
        by_place = jsonargparse.ArgumentParser()  # reads the fields' help
        by_place.add_class_arguments(config, as_group=False)
        for field in fields(config):
            if field.name in positional:
                action = next(action for action in by_place._actions if action.dest == field.name)
                nargs = positional[field.name]
                # Suppressed, as argparse would put the default over what a --config says; the dataclass has it too.
                default = {"default": SUPPRESS} if nargs == "?" else {}
                metavar = field.name.upper().removesuffix("S")
                self.add_argument(field.name, nargs=nargs, metavar=metavar, help=action.help, **default)
        several = {field.name for field in fields(config) if str(field.type) == "list[str]"} - set(positional)
        self.add_class_arguments(config, skip=set(positional) | several, as_group=False)
        for name in several:  # one option with values after it; jsonargparse would want a list in brackets
            help_text = next(action.help for action in by_place._actions if action.dest == name)
            self.add_argument(f"--{name}", nargs="+", default=SUPPRESS, metavar="FILE", help=help_text)
        types = {field.name: str(field.type) for field in fields(config)}
        for action in self._actions:
            kind = types.get(action.dest, "") if action.option_strings else ""
            action.metavar = "N" if "int" in kind else "X" if "float" in kind else action.metavar
        if find_recipe is not None:
            self.add_argument("--recipe", metavar="NAME", help="options of a published or recommended training")
        config_help = "YAML file of options; those given here beat it"
        self.add_argument("--config", action=ActionConfigFile, metavar="FILE", help=config_help)
        self._option_string_actions["--print-config"].help = "print all options as YAML for --config, and exit"
        self._option_string_actions["--print-config"].metavar = ""
        self.usage = " ".join([prog, "[options]", *map(_in_usage, positional.items())])

    def add_argument(self, *args: str, **kwargs: Any):
        if args[0].startswith("--"):
            args = (args[0].replace("_", "-"),)
            if kwargs.get("type") is bool:
                del kwargs["type"]
                kwargs["action"] = ActionYesNo(no_prefix="no-")
        return super().add_argument(*args, **kwargs)

    def parse(self, args: Sequence[str]) -> Any:
        """The config that a command line says; raises UsageError, and ValueError for values out of range."""
        args = _in_order(args)
        self._check_values(args)
        self._check_configs(args)
        named = self._named(args)
        recipe = named.recipe if self.find_recipe is not None else None
        if recipe is not None:
            args = ["--config", str(self.find_recipe(recipe)), *args]
        run = self.find_run(named.output, named.resume) if self.find_run is not None else None
        if run is not None:
            args = ["--config", str(run), *args]
        values = self.parse_args(args).as_dict()
        if recipe is not None:
            self.find_recipe(recipe, str(values.get("model")))  # of this model, also where a --config names it
        given = {field.name: values[field.name] for field in fields(self.config_class) if field.name in values}
        for name, value in given.items():
            if value == "":
                raise UsageError(f"{self._called(name)} needs a value")
        return self.config_class(**given)

    def _check_values(self, args: Sequence[str]) -> None:
        """Refuse `--name=`, `--name ''` and an empty argument: an empty path would stand for the current folder."""
        name = None
        for arg in args:
            option, equals, value = arg.partition("=")
            if arg == "" and name is None:
                raise UsageError(f"{self.prog}: an argument is empty")
            if arg == "" or (equals and not value and option in self._option_string_actions):
                raise UsageError(f"{name if arg == '' else option} needs a value")
            name = arg if arg in self._option_string_actions else None

    def _check_configs(self, args: Sequence[str]) -> None:
        """Raise UsageError, with the file's name, for a --config whose content is no YAML mapping."""
        for place, arg in enumerate(args):
            name, equals, path = arg.partition("=")
            if name == "--config" and (equals or place + 1 < len(args)):
                _check_yaml(Path(path if equals else args[place + 1]))

    def _called(self, name: str) -> str:
        """A field as the user writes it: --top-k, or IMAGE for what is given by place."""
        option = f"--{name.replace('_', '-')}"
        return option if option in self._option_string_actions else name.upper().removesuffix("S")

    def _named(self, args: Sequence[str]) -> Namespace:
        """What stands for files of options: the values of --recipe, --output and --resume."""
        only = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        only.add_argument("--recipe")
        only.add_argument("--output")
        only.add_argument("--resume", action=BooleanOptionalAction, default=False)
        try:
            return only.parse_known_args(args)[0]
        except ArgumentError:  # an option without a value, which the whole parser explains
            return Namespace(recipe=None, output=None, resume=False)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(self._explain(" ".join(message.split()))) from None

    def _explain(self, message: str) -> str:
        words = message.split()
        if message.startswith("unrecognized arguments: "):
            name = words[2].partition("=")[0]
            if not name.startswith("-"):
                return f"{self.prog} takes no further argument {words[2]!r}"
            return f"{self.prog} has no option {name}{self._closest(name)}"
        if message.startswith("Option '") and "is not accepted" in message:
            name = message.split("'")[1]
            return f"the file of --config has an unknown option {name!r}{self._closest(name)}"
        if message.startswith("Parser key ") and "Expected a " in message:
            name, value = message.split('"')[1], re.split("(?:Got|Given) value: ?", message)[-1]
            if not value:
                return f"{self._called(name)} needs a value"
            choices = re.search(r"Literal\[([^\]]*)\]", message)
            wanted = "a whole number" if "'int'" in message else "a number" if "'float'" in message else "another value"
            if choices:
                wanted = f"one of {choices[1]}".replace("'", "")
            if wanted == "a number" and value.lower().lstrip("+-") in ("nan", "inf", "infinity"):
                wanted = "a finite number"
            return f"{self._called(name)} must be {wanted}, got {value!r}"
        if message.endswith((": expected one argument", ": expected at least one argument")):
            return f"{words[1].rstrip(':')} needs a value"
        if message.startswith("the following arguments are required: "):
            return f"{self.prog} needs {message.partition(': ')[2].upper().removesuffix('S')}"
        if message.startswith('Parser key "config": '):
            return f"--config: {message.partition(': ')[2]}"
        return message

    def _closest(self, name: str) -> str:
        # Compared without the hyphens in front, which all have in common.
        options = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        close = get_close_matches(name.replace("_", "-").removeprefix("--"), options, n=2, cutoff=0.6)
        hint = " or ".join(f"--{option}" for option in close)
        return f"; did you mean {hint}?" if close else f"; {self.prog} --help lists them"


def _check_yaml(path: Path) -> None:
    """Raise UsageError for a file that is no YAML mapping; what cannot be opened is left to the parser."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return
    except UnicodeDecodeError:
        raise UsageError(f"--config {path}: not a text file in UTF-8") from None
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        raise UsageError(f"--config {path}: broken YAML: {error.problem}{place}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2020-13-01
        raise UsageError(f"--config {path}: broken YAML: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"--config {path}: expected `option: value` on each line")


def _in_usage(argument: tuple[str, str]) -> str:
    name, nargs = argument
    name = name.upper().removesuffix("S")
    return {"?": f"[{name}]", "+": f"{name} [{name} …]"}.get(nargs, name)


def _in_order(args: Sequence[str]) -> list[str]:
    """--config first, so that everything else beats it; underscores in option names are as good as hyphens."""
    args, first, rest = list(args), [], []
    while args:
        arg = args.pop(0)
        if arg == "--":
            rest += [arg, *args]
            break
        if arg.startswith("--"):
            name, equals, value = arg.partition("=")
            arg = name.replace("_", "-") + equals + value
        if arg == "--config" and args:
            first += [arg, args.pop(0)]
        elif arg.startswith("--config="):
            first.append(arg)
        else:
            rest.append(arg)
    return first + rest
