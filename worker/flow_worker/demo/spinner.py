"""Shows on a terminal that the demo works, from its first second on. It imports little, so that it starts at once."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

_START = "Starting an emulator, a worker and a gateway (some seconds) ..."


class Spinner:
    """A line that turns and says what happens. Without a terminal it writes its first sentence once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Braille dots are not in legacy code pages.
        spinner = "dots" if is_unicode(console) else "line"
        self._status = Status(_START, console=console, spinner=spinner) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        else:
            self._console.print(_START, markup=False, highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def say(self, text: str) -> None:
        """Show the text on the line, also after a stop."""
        if self._status is not None:
            self._status.update(Text(text))
            self._status.start()

    def stop(self) -> None:
        """Remove the line. A second call has no effect."""
        if self._status is not None:
            self._status.stop()


def is_unicode(console: Console) -> bool:
    """Return whether the console's stream takes every character."""
    return console.encoding.lower().startswith("utf")
