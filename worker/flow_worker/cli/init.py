"""`flow-worker init` and `flow-worker schema`: the files that a new project begins with."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from flow_worker.cli import terminal
from flow_worker.cli.parsing import Command, Group

_PLAIN = re.compile(r"[\w.:/\\-]+")
"""A path that PowerShell reads as one word without quotation marks."""

schema_cli = typer.Typer(cls=Group, add_completion=False, help="Print a JSON Schema for editors.")


@schema_cli.callback()
def _group() -> None:
    """Print a JSON Schema for editors."""
    # Without a callback Typer makes the only command the group itself, and `schema settings` would not exist.


@schema_cli.command("settings", cls=Command)
def schema_settings() -> None:
    """Print the JSON Schema of flow-worker.toml."""
    from flow_worker.settings.schema import settings_schema

    terminal.echo(terminal.json_text(settings_schema(), indent=2))


def init(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="The folder; it is created if needed.")] = ".",
) -> None:
    """Write commented settings, an example of .env and an emulator configuration. Existing files stay as they are."""
    from flow_worker.cli import init_files
    from flow_worker.settings.schema import settings_schema

    if not directory.strip():
        terminal.fail("DIR is empty; name a folder, or leave it out for the current one.", 2)
    folder = Path(directory)
    files = {
        "flow-worker.toml": init_files.TOML,
        init_files.SCHEMA_FILE: terminal.json_text(settings_schema(), indent=2) + "\n",
        ".env.example": init_files.ENV_EXAMPLE,
        "emulator.json": init_files.EMULATOR_JSON,
        ".gitignore": init_files.GITIGNORE,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder / name for name in files):
            if os.path.lexists(path) and not path.is_file():
                terminal.fail(f"{path} exists and is no file; remove it, or name another folder.", 2)
        for name, text in files.items():
            state = "created" if _create(folder / name, text) else "exists, unchanged"
            terminal.echo(f"{folder / name}: {state}", to_stderr=True)
    except OSError as error:
        terminal.fail(f"{error.filename or folder} cannot be written: {error.strerror}; name another folder.", 2)
    first, *others = init_files.COMMANDS
    steps = [] if folder.resolve() == Path.cwd() else [f"cd {quoted(directory)}"]
    terminal.echo("\nNext, start the emulator:\n", to_stderr=True)
    terminal.echo("\n".join(f"  {command}" for command in [*steps, first]))
    terminal.echo("\nIn a second terminal:\n", to_stderr=True)
    terminal.echo("\n".join(f"  {command}" for command in [*steps, *others]))
    terminal.echo("\n`flow-worker run --env-file emulator.env` then starts the worker.", to_stderr=True)
    gateway = "For requests over HTTP, enable the gateway's queue and table in flow-worker.toml, and start"
    terminal.echo(f"{gateway} `flow-worker gateway --env-file emulator.env`.", to_stderr=True)


def quoted(directory: str, *, powershell: bool = os.name == "nt") -> str:
    """Return the folder as one word of a shell. `cd` would take a hyphen at the beginning for an option."""
    text = f"./{directory}" if directory.startswith("-") else directory
    if not powershell:
        return shlex.quote(text)
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("'", "''") + "'"


def _create(path: Path, text: str) -> bool:
    """Write a file that does not exist yet; return whether it was written. Raise `OSError`."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
