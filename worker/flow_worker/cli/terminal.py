"""The commands' common parts: options, the two consoles, and error messages."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the settings. Default: $FLOW_WORKER_CONFIG, else flow-worker.toml."),
]
EnvFile = Annotated[Path, typer.Option("--env-file", help="File of FLOW_WORKER_… variables to read in addition.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

out = Console()
err = Console(stderr=True)


def fail(message: str, code: int) -> NoReturn:
    """Print the error message to stderr and exit with this status."""
    err.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def fail_settings(error: Exception) -> NoReturn:
    """Print the errors in the settings to stderr and exit with status 2."""
    fail(f"The settings are invalid:\n{error}", 2)


def plain(text: str | None, style: str = "") -> Text:
    """Return untrusted text in a form that is safe to print: without markup and without control characters.

    A control character could move the cursor or change the terminal.
    """
    return Text(
        "".join(
            character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}"
            for character in text or ""
        ),
        style,
    )


def utc(time: datetime) -> str:
    """Return the time in UTC, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
