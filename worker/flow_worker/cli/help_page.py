"""The text of `--help`: usage, description, and tables of arguments, options and commands.

Typer's own page needs rich with its parser of Markdown. Their import takes half of the processor time of `--help`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

_MAX_COLUMNS = 120
_MIN_TEXT_COLUMNS = 20
_GAP = 2
_BOLD, _CYAN, _RED, _END = "\x1b[1m", "\x1b[36m", "\x1b[1;31m", "\x1b[0m"
_NO_BREAK = "\N{NO-BREAK SPACE}"
_FACTS = re.compile(r" +\[[^\[\]]*\]$")
"""The facts about an option, such as `[default: 10; 1<=x<=300]`. They stay in one line."""
_Row = tuple[str, str]


def render(command: Any, ctx: Any, *, styled: bool) -> str:
    """Return the help of a command or group. The types of both depend on Typer's version."""
    columns = min(shutil.get_terminal_size().columns, _MAX_COLUMNS) - 1  # some consoles break a line that is full
    pieces = [piece for one in command.collect_usage_pieces(ctx) for piece in one.split()]
    lines = _wrapped(" ".join(pieces), columns, f"Usage: {ctx.command_path} ")
    for paragraph in _paragraphs(command.help):
        lines += ["", *_wrapped(paragraph, columns)]
    for title, rows in _tables(command, ctx):
        lines += ["", _style(f"{title}:", _BOLD, styled=styled), *_table(rows, columns, styled=styled)]
    return "\n".join(lines)


def render_error(error: Any, *, styled: bool) -> str:
    """Return the text of a wrong command line: the usage, where to find help, and the error."""
    lines = []
    if (ctx := getattr(error, "ctx", None)) is not None:
        lines += [ctx.get_usage(), f"Try '{ctx.command_path} {ctx.help_option_names[0]}' for help.", ""]
    return "\n".join([*lines, f"{_style('Error:', _RED, styled=styled)} {error.format_message()}"])


def is_styled(stream: Any) -> bool:
    """Return whether a terminal shows the stream that understands the sequences of colours."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    # An older console of Windows prints the sequences themselves; Windows Terminal sets this variable.
    return bool(stream.isatty()) and (sys.platform != "win32" or "WT_SESSION" in os.environ)


def _tables(command: Any, ctx: Any) -> Iterator[tuple[str, list[_Row]]]:
    parameters = command.get_params(ctx)
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        records = [one.get_help_record(ctx) for one in parameters if one.param_type_name == kind]
        if rows := [record for record in records if record is not None]:
            yield title, rows
    if hasattr(command, "helps"):
        yield "Commands", [(name, next(_paragraphs(text), "")) for name, text in command.helps()]


def _paragraphs(text: str | None) -> Iterator[str]:
    return (" ".join(part.split()) for part in re.split(r"\n\s*\n", text or "") if part.strip())


def _table(rows: Iterable[_Row], columns: int, *, styled: bool) -> Iterator[str]:
    """Yield the rows in two aligned columns. A name that is too long for its column has its text in the next line."""
    rows = list(rows)
    longest = columns * 2 // 5
    width = max((len(name) for name, _ in rows if len(name) <= longest), default=longest)
    indent = " " * (_GAP + width + _GAP)
    for name, text in rows:
        whole = _FACTS.sub(lambda facts: f" {facts[0].strip().replace(' ', _NO_BREAK)}", text)
        lines = [line.replace(_NO_BREAK, " ") for line in _wrapped(whole, columns, indent)] or [""]
        if len(name) > width:
            lines.insert(0, "")
        yield f"{' ' * _GAP}{_style(name, _CYAN, styled=styled)}{lines[0][_GAP + len(name) :]}".rstrip()
        yield from lines[1:]


def _wrapped(text: str, columns: int, start: str = "") -> list[str]:
    """Return the lines of a text, all indented like the first. No word is broken, such as an option with hyphens."""
    columns = max(columns, len(start) + _MIN_TEXT_COLUMNS)
    return textwrap.wrap(
        text,
        columns,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _style(text: str, sequence: str, *, styled: bool) -> str:
    return f"{sequence}{text}{_END}" if styled else text
