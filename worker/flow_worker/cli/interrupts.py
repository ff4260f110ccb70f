"""Ends a command on Ctrl-C without a traceback, wherever it comes.

An import or a finalizer wraps or swallows a `KeyboardInterrupt`. The commands import their parts, so this happens to
everybody who presses Ctrl-C during the start.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_AFTER_SECONDS = 0.02


def prepare() -> None:
    """Repeat the interrupts that a finalizer would swallow and print."""
    sys.unraisablehook = _repeat


def is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C caused the error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _repeat(unraisable: UnraisableHookArgs) -> None:
    if is_interrupt(unraisable.exc_value):
        threading.Timer(_AFTER_SECONDS, _interrupt).start()  # this hook, too, would swallow it
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt() -> None:
    """Send the signal itself. Python's `interrupt_main` does not end the wait of an idle event loop."""
    if sys.platform != "win32" and (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
