"""Logs the errors that Python itself would print: with their texts, which may quote a request, and on many lines."""

from __future__ import annotations

import logging
import sys
import threading

_log = logging.getLogger(__name__)


def log_uncaught() -> None:
    """Log the errors that end a thread, and those that Python cannot raise: of finalizers and callbacks."""
    threading.excepthook = _thread_failed
    sys.unraisablehook = _not_raised


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is SystemExit:  # ends the thread silently, as in Python's own hook
        return
    name = "" if failure.thread is None else failure.thread.name
    _report("thread.failed", "A thread ended with an error.", failure.exc_value, thread=name)


def _not_raised(failure: sys.UnraisableHookArgs) -> None:
    _report("error.not_raised", "An error could not be raised: a finalizer or a callback failed.", failure.exc_value)


def _report(event: str, sentence: str, error: BaseException | None, **fields: str) -> None:
    _log.error("%s", sentence, exc_info=error, extra={"event": event, "fields": fields})
