"""The parser of all commands: argparse's, which also says what an unknown word was probably meant to be."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from i2vpp.errors import shorten_words
from i2vpp.utils.suggest import did_you_mean, nearest_word


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` with hints for unknown options, choices and subcommands.

    Words such as -0.5,3,20,30 are values, not options: coordinates may lie a little outside of a frame. Options cannot
    be abbreviated: the beginning of an option may be the name of one that only another command has.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._negative_number_matcher = re.compile(r"-\.?\d")
        self._given: Sequence[str] = ()

    def add_aliases(self, aliases: Mapping[str, str]) -> None:
        """Accept other spellings of options, which the help names in its last paragraph only.

        Args:
            aliases: options of this parser by other spellings, such as `{"--num_processes": "--processes"}`.
        """
        for spelling, option in aliases.items():
            self._option_string_actions[spelling] = self._option_string_actions[option]
        named = ", ".join(f"{spelling} for {option}" for spelling, option in aliases.items())
        self.epilog = "\n".join(filter(None, (self.epilog, f"Also accepted: {named}.")))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """See argparse; an unknown option is an error of the subcommand that it was given to."""
        return self._parse(super().parse_known_args, args, namespace)

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """See argparse, and `parse_known_args`."""
        return self._parse(super().parse_known_intermixed_args, args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the message, with what the first unknown option was probably meant to be, and exit."""
        name = self._unknown_option()
        options = [option.removeprefix("--") for option in self._option_string_actions if option.startswith("--")]
        near = None if name is None else _nearest_option(name.removeprefix("--"), options)
        hint = "" if near is None else f"; did you mean '{self._listed(f'--{near}')}'?"
        super().error(shorten_words(f"{message}{hint}"))

    def _listed(self, option: str) -> str:
        """Return the spelling of an option that the help lists: of an alias, the option that it stands for."""
        spellings = self._option_string_actions[option].option_strings
        return option if option in spellings else spellings[-1]

    def _parse(
        self, parse: Callable[[Sequence[str], Any], tuple[Any, list[str]]], args: Sequence[str] | None, namespace: Any
    ) -> tuple[Any, list[str]]:
        self._given = sys.argv[1:] if args is None else list(args)
        found, extras = parse(self._given, namespace)
        if self._unknown_option() is not None:
            self.error(f"unrecognized arguments: {' '.join(extras)}")
        return found, extras

    def _unknown_option(self) -> str | None:
        """Return the first long option that this parser does not have; those behind a subcommand are not its own."""
        words = takewhile(lambda word: word != "--", self._given)
        if self._subparsers is not None:
            words = takewhile(lambda word: word.startswith("-"), words)
        for word in words:
            name = word.partition("=")[0]
            if name.startswith("--") and " " not in name and name not in self._option_string_actions:
                return name
        return None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = did_you_mean(value, map(str, action.choices))
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {hint}")


def _nearest_option(name: str, options: Sequence[str]) -> str | None:
    """Return the option that an unknown one was probably meant to be: the only one that begins so, or the nearest."""
    begins = [option for option in options if option.startswith(name)]
    return begins[0] if len(begins) == 1 else nearest_word(name, options)


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the `type` of an option that takes an integer within limits.

    Args:
        least: smallest value that is accepted, 0 or more.
        most: largest value that is accepted; None for no limit.

    Returns:
        A function from the text to the number, which raises `argparse.ArgumentTypeError`.
    """

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            limits = f" of {least} or more" if most is None else f", {least} to {most}"
            raise argparse.ArgumentTypeError(f"must be an integer{limits}; got {text!r}")
        return int(text)

    return parse


def comma_list(parse: Callable[[str], Any] = str) -> Callable[[str], list[Any]]:
    """Return the `type` of an option that takes values with commas between them; meant for `action="extend"`."""
    return lambda text: [parse(word.strip()) for word in text.split(",") if word.strip()]


def key_value(text: str) -> str:
    """Return an option's value of the form KEY=VALUE; raise `argparse.ArgumentTypeError` for anything else."""
    key, equals, _ = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return text
