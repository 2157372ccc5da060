"""The argument parser of every command: options from a dataclass, and errors in one line."""

import re
from argparse import SUPPRESS, ArgumentError, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ActionYesNo, DefaultHelpFormatter

from glocal import safe_yaml, trust
from glocal.errors import InvalidValueError
from glocal.options import numeric_fields, read_options, wanted
from glocal.wording import printable, shown

TRUSTED = "a command to run (pipe:…), a model from elsewhere, or to overwrite"

NO_DEFAULT = ("help", "recipe", "config", "print_config", "trust")


class UsageError(InvalidValueError):
    """A command line that cannot be understood."""


class HelpFormatter(DefaultHelpFormatter):
    """Shows every default once, no Python types, and the paragraphs of a description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(HelpFormatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))

    def _get_help_string(self, action) -> str:
        text = action.help or ""
        if action.dest in NO_DEFAULT or action.default is SUPPRESS or "default" in text or not action.option_strings:
            return text
        if isinstance(action.default, bool):
            return f"{text} (default: {'yes' if action.default else 'no'})"
        return f"{text} (default: {action.default or 'none' if action.default != 0 else 0})"


class CommandParser(jsonargparse.ArgumentParser):
    """Parses one command.

    config: dataclass whose docstring describes its fields. The fields named in `positional` (name: nargs) are given by
    place, the others as options: `val_fraction` as --val-fraction, a bool as --flag and --no-flag. Its attribute
    METAVARS may say what the help calls the values of a list of texts (FILE), and REPEATED which of these lists are
    options that are given again for each text, so that what follows a text may be an argument.
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
        recipe_names: Callable[[], list[str]] | None = None,
        find_run: Callable[[str | None, bool], Path | None] | None = None,
    ):
        jsonargparse.set_loader("safe", _load_value, exceptions=(safe_yaml.YamlError,))
        super().__init__(
            prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False, parser_mode="safe"
        )
        self.config_class = config
        self.positional = positional
        self.find_recipe = find_recipe
        self.recipe_names = recipe_names
        self.find_run = find_run
        self.notes: list[str] = []
        self.untrusted: dict[str, Path] = {}
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
            metavar = getattr(config, "METAVARS", {}).get(name, "FILE")
            how = {"action": "append"} if name in getattr(config, "REPEATED", ()) else {"nargs": "+"}
            self.add_argument(f"--{name}", default=SUPPRESS, metavar=metavar, help=help_text, **how)
        types = {field.name: str(field.type) for field in fields(config)}
        for action in self._actions:
            kind = types.get(action.dest, "") if action.option_strings else ""
            action.metavar = "N" if "int" in kind else "X" if "float" in kind else action.metavar
        self._add_files()
        self.usage = " ".join([prog, "[options]", *map(_in_usage, positional.items())])

    def _add_files(self) -> None:
        """The options that stand for files of options, which are read here and not by jsonargparse."""
        if self.find_recipe is not None:
            names = f": {', '.join(self.recipe_names())}" if self.recipe_names is not None else ""
            self.add_argument("--recipe", metavar="NAME", help=f"options of a published or recommended training{names}")
        self.add_argument("--config", metavar="FILE", help="YAML file of options; those given here beat it")
        for name, help_text in (
            ("--print-config", "print all options as YAML for --config, and exit"),
            ("--trust", f"take from such a file also {TRUSTED}"),
        ):
            self.add_argument(name, action="store_true", help=help_text)

    def add_argument(self, *args: str, **kwargs: Any):
        if args[0].startswith("--"):
            args = (args[0].replace("_", "-"),)
            if kwargs.get("type") is bool:
                del kwargs["type"]
                kwargs["action"] = ActionYesNo(no_prefix="no-")
        return super().add_argument(*args, **kwargs)

    def parse(self, args: Sequence[str]) -> Any:
        """The config that a command line says; raises UsageError, and ValueError for values out of range.

        Then `notes` says what is read that a file has named, and which file; `untrusted` are the options that files
        gave, each with its file, without --trust.
        """
        self._check_values(args := _hyphens(args))
        configs, rest = _configs(args)
        named = self._named(rest)
        recipe = named.recipe if self.find_recipe is not None else None
        given = self._of_files(configs, recipe, named)
        typed = self._typed(rest, given)
        printing, trusting = typed.pop("print_config", False), typed.pop("trust", False)
        values = {name: value for name, (value, _) in given.items()} | typed
        if recipe is not None:
            self.find_recipe(recipe, str(values.get("model")))  # of this model, also where a --config names it
        for name, value in values.items():
            if value == "":
                raise UsageError(f"{self._called(name)} needs a value")
        if printing:
            self._print(values)
        given = {name: found for name, found in given.items() if name not in typed}
        self.notes = trust.provenance(self.config_class, given)
        if not trusting:
            for name, (value, file) in given.items():
                trust.check_option(str(file), self.config_class, name, value)
            self.untrusted = {name: file for name, (_, file) in given.items()}
        return self.config_class(**values)

    def _of_files(self, configs: list[str], recipe: str | None, named: Namespace) -> dict[str, tuple[Any, Path]]:
        """The options that files give, each with its file; a later file beats an earlier one."""
        run = self.find_run(named.output, named.resume) if self.find_run is not None else None
        files = [] if run is None else [(run, str(run))]
        own = None if recipe is None else self.find_recipe(recipe)
        files += [] if own is None else [(own, f"the recipe {recipe}")]
        files += [(Path(path), f"--config {path}") for path in configs]
        given = {}
        for file, label in files:
            try:
                values = read_options(file, self.config_class, label, f"{self.prog} --help lists them")
            except FileNotFoundError:
                raise UsageError(f"--config: File does not exist: {file}") from None
            except OSError as error:
                raise UsageError(f"{label} cannot be read: {error.strerror}") from None
            given |= {name: (value, file) for name, value in values.items()}
        return given

    def _typed(self, args: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
        """What the command line itself says; an argument that has to be there may come from a file."""
        needed = [action for action in self._actions if not action.option_strings and action.nargs == "+"]
        for action in needed:
            action.nargs, action.default, action.required = "*", SUPPRESS, False
        values = self.parse_args(args, defaults=False).as_dict()
        for action in needed:
            if not values.get(action.dest):
                values.pop(action.dest, None)
                if action.dest not in given:
                    raise UsageError(f"{self.prog} needs {self._called(action.dest)}")
        known = {field.name for field in fields(self.config_class)} | {"print_config", "trust"}
        return {name: value for name, value in values.items() if name in known}

    def _print(self, values: dict[str, Any]) -> NoReturn:
        """Print all options as YAML, and exit."""
        printed = [
            field for field in fields(self.config_class) if field.name in values or field.name not in self.positional
        ]
        options = {field.name: values.get(field.name, self._default_of(field)) for field in printed}
        text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
        if any(printable(line) != line for line in text.splitlines()):
            text = yaml.safe_dump(options, sort_keys=False)  # all that is not ASCII is escaped
        print(text, end="")
        self.exit()

    @staticmethod
    def _default_of(field: Field) -> Any:
        return field.default if field.default_factory is MISSING else field.default_factory()

    def _check_values(self, args: Sequence[str]) -> None:
        """Refuse `--name=`, `--name ''` and an empty argument: an empty path would stand for the current folder.

        Refuse numbers too that are too long for one, on which Python's own conversions fail.
        """
        kinds = numeric_fields(self.config_class)
        name = None
        for arg in args:
            option, equals, value = arg.partition("=")
            if arg == "" and name is None:
                raise UsageError(f"{self.prog}: an argument is empty")
            if arg == "" or (equals and not value and option in self._option_string_actions):
                raise UsageError(f"{name if arg == '' else option} needs a value")
            given, number = (option, value) if equals else (name, arg)
            field = (given or "").removeprefix("--").replace("-", "_")
            if field in kinds and len(number) > safe_yaml.MAX_NUMBER:
                raise UsageError(f"{given} must be {wanted(kinds[field])}, got {shown(number)}")
            name = arg if arg in self._option_string_actions else None

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
        if message.startswith("Parser key ") and "Expected a " in message:
            name, value = message.split('"')[1], re.split("(?:Got|Given) value: ?", message)[-1]
            if not value:
                return f"{self._called(name)} needs a value"
            choices = re.search(r"Literal\[([^\]]*)\]", message)
            kind = "a whole number" if "'int'" in message else "a number" if "'float'" in message else "another value"
            kind = "a mapping such as {name: value}" if "'dict'" in message else kind
            if choices:
                kind = f"one of {choices[1]}".replace("'", "")
            if kind == "a number" and value.lower().lstrip("+-") in ("nan", "inf", "infinity"):
                kind = "a finite number"
            return f"{self._called(name)} must be {kind}, got {shown(value)}"
        if words[0] == "argument" and ": ignored explicit argument " in message:
            name, _, value = (
                words[1].rstrip(":").partition("/")[0],
                *message.partition(": ignored explicit argument ")[1:],
            )
            return f"{name} takes no value, got {value}"
        if message.endswith((": expected one argument", ": expected at least one argument")):
            return f"{words[1].rstrip(':')} needs a value"
        if message.startswith("the following arguments are required: "):
            return f"{self.prog} needs {message.partition(': ')[2].upper().removesuffix('S')}"
        return message

    def _closest(self, name: str) -> str:
        # Compared without the hyphens in front, which all have in common.
        options = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        close = get_close_matches(name.replace("_", "-").removeprefix("--"), options, n=2, cutoff=0.6)
        hint = " or ".join(f"--{option}" for option in close)
        return f"; did you mean {hint}?" if close else f"; {self.prog} --help lists them"


def _in_usage(argument: tuple[str, str]) -> str:
    name, nargs = argument
    name = name.upper().removesuffix("S")
    return {"?": f"[{name}]", "+": f"{name} [{name} …]"}.get(nargs, name)


def _hyphens(args: Sequence[str]) -> list[str]:
    """The same, with hyphens in the names of options: underscores are as good."""
    args = list(args)
    options = args[: args.index("--")] if "--" in args else args
    for place, arg in enumerate(options):
        if arg.startswith("--"):
            name, equals, value = arg.partition("=")
            args[place] = name.replace("_", "-") + equals + value
    return args


def _configs(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files of --config, wherever they stand, and everything else, which beats them."""
    args, configs, rest = list(args), [], []
    while args:
        arg = args.pop(0)
        if arg == "--":
            return configs, [*rest, arg, *args]
        if arg == "--config" and args:
            configs.append(args.pop(0))
        elif arg.startswith("--config="):
            configs.append(arg.partition("=")[2])
        else:
            rest.append(arg)
    return configs, rest


def _load_value(text: str) -> Any:
    """What a value on the command line stands for, for jsonargparse."""
    value = safe_yaml.load(text)
    # `a:` and `{a,b}` are mappings to nothing in YAML; who writes them means the text
    return text if isinstance(value, dict) and all(one is None for one in value.values()) and value else value
