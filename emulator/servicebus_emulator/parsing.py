"""The classes of commands and groups: quick help, and errors of options in this program's own words.

Typer checks options with pydantic. Its import takes as long as the whole of `--help`, and its messages are for
programmers. So the help and the usual errors of a command line come before that check.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from servicebus_emulator import help_page

_Context = Any
"""Click's class or Typer's own one, which depends on Typer's version."""
_UsageError: Any = next(one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException")
"""Its name in Typer depends on the version too."""
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
        _require_arguments(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = worded(error)
            raise

    def get_help(self, ctx: _Context) -> str:
        """Return the text of `--help`."""
        return help_page.render(self, ctx, styled=help_page.is_styled(sys.stdout))


class Group(TyperGroup):
    """A group of commands."""

    def parse_args(self, ctx: _Context, args: list[str]) -> list[str]:
        """Parse the command line up to the name of the command. Exits after the help, also that of the command."""
        _print_help_if_asked(ctx, args[:1])
        if args and _asks_for_help(ctx, args) and (command := self.get_command(ctx, args[0])) is not None:
            # At once: the group's own options would need pydantic.
            command.make_context(args[0], args[1:], parent=ctx)
        if not args and not ctx.resilient_parsing:
            _print_help(ctx)
            ctx.exit(2)
        for flag in self.get_params(ctx):
            if getattr(flag, "is_flag", False) and flag.default is None:
                flag.default = False  # Typer would check None with pydantic
        return super().parse_args(ctx, args)

    def get_help(self, ctx: _Context) -> str:
        """Return the text of `--help`."""
        return help_page.render(self, ctx, styled=help_page.is_styled(sys.stdout))

    def helps(self) -> Iterator[tuple[str, str | None]]:
        """Yield the name of each command with its help."""
        return ((name, command.help) for name, command in self.commands.items())

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit. The error of a wrong one is printed without rich, in the stream's encoding."""
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return run()
        try:
            sys.exit(run())
        except typer.Abort:
            _print_error("Aborted.")
            sys.exit(1)
        except _UsageError as error:
            _print_error(help_page.render_error(error, styled=help_page.is_styled(sys.stderr)))
            sys.exit(error.exit_code)


def _asks_for_help(ctx: _Context, args: Sequence[str]) -> bool:
    options = args[: args.index("--")] if "--" in args else args
    return not ctx.resilient_parsing and not set(options).isdisjoint(ctx.help_option_names)


def _print_help_if_asked(ctx: _Context, args: Sequence[str]) -> None:
    if _asks_for_help(ctx, args):
        _print_help(ctx)
        ctx.exit()


def _print_help(ctx: _Context) -> None:
    # Not `typer.echo`, which writes UTF-8 to a stream whose encoding is ASCII.
    sys.stdout.write(f"{ctx.get_help()}\n")
    sys.stdout.flush()


def _print_error(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _require_arguments(ctx: _Context, args: Sequence[str]) -> None:
    """Raise the error of a missing argument, an unknown option or an option without a value."""
    if ctx.resilient_parsing:
        return
    given = ctx.command.make_parser(ctx).parse_args(args=list(args))[0]
    for one in ctx.command.params:
        if one.required and not isinstance(given.get(one.name), (str, list)):
            names = one.opts if one.param_type_name == "option" else [one.metavar or one.name]
            ctx.fail(f"Missing {one.param_type_name} {' / '.join(map(repr, names))}.")


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
