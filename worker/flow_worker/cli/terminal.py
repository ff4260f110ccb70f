"""The commands' common parts: options, the two consoles, safe text, and error messages."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from flow_worker.cli import streams

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.console import Console
    from rich.text import Text

Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the settings. Default: $FLOW_WORKER_CONFIG, else flow-worker.toml."),
]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file", help="File of FLOW_WORKER_… variables to read in addition. Default: .env, if it exists."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_PIPE_WIDTH = 4000
"""The columns of a file or pipe: no program that reads it wants lines that end at the 80th column."""


@cache
def out() -> Console:
    """Return the console of stdout."""
    from rich.console import Console  # imported here, like the others: `--help` needs no part of rich

    return Console()


@cache
def err() -> Console:
    """Return the console of stderr."""
    from rich.console import Console

    return Console(stderr=True)


def wide_out() -> Console:
    """Return the console of stdout; if stdout is no terminal, one that folds no line."""
    from rich.console import Console

    return out() if out().is_terminal else Console(width=_PIPE_WIDTH)


def echo(text: str, *, to_stderr: bool = False) -> None:
    """Print one line as it is. Unlike `typer.echo`, it keeps the encoding of the stream, also if that is ASCII."""
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def fail(message: str, code: int) -> NoReturn:
    """Print the error message to stderr and exit with this status."""
    # The message may quote a remote text, such as the contract of a forged result.
    err().print(plain(message, "red", multiline=True), soft_wrap=True)
    raise typer.Exit(code)


def fail_settings(error: Exception) -> NoReturn:
    """Print the errors in the settings to stderr and exit with status 2."""
    fail(f"The settings are invalid:\n{error}", 2)


def plain(text: str | None, style: str = "", *, multiline: bool = False) -> Text:
    """Return untrusted text in a form that is safe to print: see `visible`. It is never read as markup."""
    from rich.text import Text

    return Text(visible(text or "", multiline=multiline), style)


def visible(text: str, *, multiline: bool = False) -> str:
    """Return the text with each character that is not printable as its escape, such as `\\x1b` or `\\u202e`.

    Such a character could move the cursor, change the terminal, or reverse the order of what it shows. With `multiline`
    line feeds stay; otherwise they are escaped too, because a message ID with one could imitate another line.
    """
    return _UNUSUAL.sub(lambda found: _escaped(found[0], multiline=multiline), text)


def json_text(document: JsonValue, *, indent: int | None = None) -> str:
    """Return the document as JSON in which every character is printable.

    `json.dumps` escapes the control characters below 0x20 only. The others (DEL, C1, bidirectional controls, line
    separators) become JSON escapes here. If stdout has a legacy encoding, so does every character beyond ASCII: the
    reader of JSON expects UTF-8, and the stream would replace what it cannot encode.
    """
    separators = (",", ":") if indent is None else None
    in_ascii = not streams.is_unicode(getattr(sys.stdout, "encoding", None))
    text = json.dumps(document, ensure_ascii=in_ascii, indent=indent, separators=separators)
    # Only strings hold such characters, apart from the line feeds of the indentation: in a string, they are escaped.
    return _UNUSUAL.sub(lambda found: _json_escaped(found[0]), text)


def print_json(console: Console, document: JsonValue) -> None:
    """Print the document for a person, indented and in colour."""
    from rich.highlighter import JSONHighlighter

    console.print(JSONHighlighter()(json_text(document, indent=2)), soft_wrap=True)


_UNUSUAL = re.compile(r"[^ -~]")
"""Every character that needs a closer look; most texts have few of them."""


def _is_safe(character: str, *, multiline: bool) -> bool:
    return character.isprintable() or (multiline and character == "\n")


def _json_escaped(character: str) -> str:
    return character if _is_safe(character, multiline=True) else json.dumps(character)[1:-1]


def _escaped(character: str, *, multiline: bool) -> str:
    return character if _is_safe(character, multiline=multiline) else character.encode("unicode_escape").decode()


def utc(time: datetime) -> str:
    """Return the time in UTC, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
