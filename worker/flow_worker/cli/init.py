"""`flow-worker init` and `flow-worker schema`: the files that a new project begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flow_worker.cli import terminal

schema_cli = typer.Typer(no_args_is_help=True, help="Print a JSON Schema for editors.")


@schema_cli.callback()
def _group() -> None:
    """Print a JSON Schema for editors."""
    # Without a callback Typer makes the only command the group itself, and `schema settings` would not exist.


@schema_cli.command("settings")
def schema_settings() -> None:
    """Print the JSON Schema of flow-worker.toml."""
    from flow_worker.settings.schema import settings_schema

    terminal.echo(terminal.json_text(settings_schema(), indent=2))


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; it is created if needed.")] = Path(),
) -> None:
    """Write commented settings, an example of .env and an emulator configuration. Existing files stay as they are."""
    from flow_worker.cli import init_files
    from flow_worker.settings.schema import settings_schema

    files = {
        "flow-worker.toml": init_files.TOML,
        init_files.SCHEMA_FILE: terminal.json_text(settings_schema(), indent=2) + "\n",
        ".env.example": init_files.ENV_EXAMPLE,
        "emulator.json": init_files.EMULATOR_JSON,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            state = "created" if _create(folder / name, text) else "exists, unchanged"
            terminal.echo(f"{folder / name}: {state}", to_stderr=True)
    except OSError as error:
        terminal.fail(f"{error.filename or folder} cannot be written: {error.strerror}; name another folder.", 2)
    first, *others = init_files.COMMANDS
    steps = [] if folder.resolve() == Path.cwd() else [f"cd {folder}"]
    terminal.echo("\nNext, start the emulator:\n", to_stderr=True)
    terminal.echo("\n".join(f"  {command}" for command in [*steps, first]))
    terminal.echo("\nIn a second terminal:\n", to_stderr=True)
    terminal.echo("\n".join(f"  {command}" for command in [*steps, *others]))
    terminal.echo("\n`flow-worker run --env-file emulator.env` then starts the worker.", to_stderr=True)


def _create(path: Path, text: str) -> bool:
    """Write a file that does not exist yet; return whether it was written. Raise `OSError`."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
