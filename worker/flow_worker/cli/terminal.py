"""What the commands share at the terminal: options, the two consoles, and how a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file; default: $FLOW_WORKER_CONFIG, flow-worker.toml")
]
EnvFile = Annotated[Path, typer.Option("--env-file", help="File of FLOW_WORKER_… variables to read besides.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

out = Console()
err = Console(stderr=True)


def fail(message: str, code: int) -> NoReturn:
    """Say what was wrong and end with this exit status."""
    err.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def plain(text: str | None, style: str = "") -> Text:
    """Text that others wrote, safe to print: no markup, and nothing that moves the cursor or changes the terminal."""
    return Text(
        "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text or ""), style
    )
