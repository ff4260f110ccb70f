"""Commands that are imported and built when they are asked for: the help of one command needs none of the others."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from typer.main import get_command

from flow_worker.cli.parsing import Command, Group


class LazyCommands(Mapping[str, Any]):
    """Commands and groups by their names. Each place is a module of this package with a function or a `Typer`."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """Nothing is imported yet."""
        self._places = places
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return the command, built. Raises `KeyError`."""
        if name not in self._built:
            target = self._target(name)
            if not isinstance(target, typer.Typer):
                function, target = target, typer.Typer(add_completion=False)
                target.command(name, cls=Command)(function)
            self._built[name] = get_command(target)
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return the number of commands."""
        return len(self._places)

    def helps(self) -> Iterator[tuple[str, str | None]]:
        """Yield each name with its help. To build a command takes longer than to import it."""
        for name in self:
            target = self._target(name)
            yield name, target.info.help if isinstance(target, typer.Typer) else target.__doc__

    def _target(self, name: str) -> Any:
        module, _, attribute = self._places[name].partition(":")
        return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)


class LazyGroup(Group):
    """The group of all commands; a subclass sets their places."""

    lazy_commands: LazyCommands

    def __init__(self, **attributes: Any) -> None:
        """See `TyperGroup`."""
        super().__init__(**attributes)
        self.commands: Any = self.lazy_commands

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names."""
        return [*self.commands]

    def helps(self) -> Iterator[tuple[str, str | None]]:
        """Yield the name of each command with its help."""
        return self.lazy_commands.helps()
