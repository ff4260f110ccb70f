"""The classes of commands and groups: quick help, and errors of options in this program's own words.

Typer checks options with pydantic. Its import takes a third of the time of `--help`, and its messages are for
programmers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_Context = Any
"""Click's class or Typer's own one, which depends on Typer's version."""
_KINDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_parsing": lambda _: "must be true or false",
    "float_parsing": lambda _: "must be a number",
    "finite_number": lambda _: "must be a number",
    "int_parsing": lambda _: "must be a whole number",
    "int_from_float": lambda _: "must be a whole number",
    "int_parsing_size": lambda _: "must be a whole number of fewer digits",
    "greater_than_equal": lambda bounds: f"must be at least {bounds['ge']:g}",
    "less_than_equal": lambda bounds: f"must be at most {bounds['le']:g}",
}
_PREFIX = re.compile(r"^(Value error, |Assertion failed, )")
_MAX_SHOWN_CHARACTERS = 40


class Command(TyperCommand):
    """A command."""

    def parse_args(self, ctx: _Context, args: list[str]) -> list[str]:
        """Parse the command line. Raises `BadParameter`; exits after the help."""
        _print_help_if_asked(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = worded(error)
            raise


class Group(TyperGroup):
    """A group of commands."""

    def parse_args(self, ctx: _Context, args: list[str]) -> list[str]:
        """Parse the command line up to the name of the command. Exits after the help, also that of the command."""
        _print_help_if_asked(ctx, args[:1])
        if args and _asks_for_help(ctx, args) and (command := self.get_command(ctx, args[0])) is not None:
            # At once: the group's own options would need pydantic.
            command.make_context(args[0], args[1:], parent=ctx)
        return super().parse_args(ctx, args)


def _asks_for_help(ctx: _Context, args: Sequence[str]) -> bool:
    options = args[: args.index("--")] if "--" in args else args
    return not ctx.resilient_parsing and not set(options).isdisjoint(ctx.help_option_names)


def _print_help_if_asked(ctx: _Context, args: Sequence[str]) -> None:
    if _asks_for_help(ctx, args):
        typer.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def worded(error: typer.BadParameter) -> str:
    """Return the message of a wrong value: what the value must be, and the value."""
    details = getattr(error.__cause__, "errors", None)  # pydantic's error, if it is one
    if details is None:
        return _PREFIX.sub("", error.message)
    detail = details()[0]
    if (kind := _KINDS.get(detail["type"])) is not None:
        value = str(detail["input"])[:_MAX_SHOWN_CHARACTERS]
        return f"{kind(detail.get('ctx', {}))}, not {value!r}."
    return re.sub(r"^(Input|Value) should", "must", _PREFIX.sub("", error.message))
