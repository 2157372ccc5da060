"""The argument parser of every command: options from a dataclass, and errors in one line."""

import re
from argparse import SUPPRESS, ArgumentError, ArgumentParser
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
    find_recipe: turns a name into a YAML file of options; with it there is --recipe NAME.
    """

    def __init__(
        self,
        prog: str,
        config: type,
        positional: dict[str, str],
        description: str,
        find_recipe: Callable[[str], Path] | None = None,
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
        self.add_class_arguments(config, skip=set(positional), as_group=False)
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
        recipe = self._recipe(args)
        if recipe is not None:
            args = ["--config", str(self.find_recipe(recipe)), *args]
        values = self.parse_args(args).as_dict()
        if recipe is not None:
            self._check_recipe(recipe, values)
        return self.config_class(
            **{field.name: values[field.name] for field in fields(self.config_class) if field.name in values}
        )

    def _recipe(self, args: Sequence[str]) -> str | None:
        """The value of --recipe; None without one."""
        if self.find_recipe is None:
            return None
        only = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        only.add_argument("--recipe")
        try:
            return only.parse_known_args(args)[0].recipe
        except ArgumentError:
            return None  # a --recipe without a value, which the whole parser explains

    def _check_recipe(self, recipe: str, values: dict) -> None:
        """A recipe belongs to its model: other rates and drop paths suit others."""
        model = yaml.safe_load(self.find_recipe(recipe).read_text(encoding="utf-8")).get("model")
        if model is not None and values.get("model") != model:
            raise UsageError(f"the recipe {recipe} is for the model {model}, not {values.get('model')}")

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
            return f"the file of --config has an unknown option {name!r}{self._closest(f'--{name}')}"
        if message.startswith("Parser key ") and "Expected a " in message:
            name, value = message.split('"')[1], re.split("(?:Got|Given) value: ", message)[-1]
            wanted = "a whole number" if "'int'" in message else "a number" if "'float'" in message else "another value"
            return f"--{name.replace('_', '-')} must be {wanted}, got {value!r}"
        if message.endswith(": expected one argument"):
            return f"{words[1].rstrip(':')} needs a value"
        if message.startswith("the following arguments are required: "):
            return f"{self.prog} needs {message.partition(': ')[2].upper().removesuffix('S')}"
        if message.startswith('Parser key "config": '):
            return f"--config: {message.partition(': ')[2]}"
        return message

    def _closest(self, name: str) -> str:
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        close = get_close_matches(name.replace("_", "-"), options, n=2)
        return f"; did you mean {' or '.join(close)}?" if close else f"; {self.prog} --help lists them"


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
