"""Shows the progress of a command: a bar on a terminal, and a line now and then in a file or pipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

EVERY_SECONDS = 5.0
"""The least time between two lines. A command that takes less writes none."""


class Counter:
    """Counts steps and shows their number. `total` is None if it is not known yet."""

    def __init__(
        self,
        console: Console,
        description: str,
        total: int | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._description = description
        self._total = total
        self._monotonic = monotonic
        self._done = 0
        self._last_line = monotonic()
        # No bar is drawn again and again in a file.
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = None if self._progress is None else self._progress.add_task(description, total=total)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self) -> None:
        """Count one step."""
        self._done += 1
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)
        elif (now := self._monotonic()) - self._last_line >= EVERY_SECONDS:
            self._last_line = now
            of = "" if self._total is None else f" of {self._total}"
            self._console.print(f"{self._description}: {self._done}{of}", markup=False, highlight=False)
