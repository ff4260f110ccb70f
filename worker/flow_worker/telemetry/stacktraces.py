"""Formats an exception for the log without its text, which may quote an input, an output or a token."""

from __future__ import annotations

import os
import traceback

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"
_MAX_CHAIN = 20
_MAX_GROUP = 5
_MAX_NESTING = 3


def stacktrace(error: BaseException) -> str:
    """Return the frames and the types of an exception, of its causes and of the members of a group."""
    return _chain(error, 0).rstrip("\n")


def type_name(error: BaseException) -> str:
    """Return the type's name, with its module unless it is a built-in one."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _chain(error: BaseException, nesting: int) -> str:
    text, seen = _one(error, nesting), {id(error)}
    while len(seen) < _MAX_CHAIN:
        if error.__cause__ is not None:
            earlier, joint = error.__cause__, _CAUSE
        elif error.__context__ is not None and not error.__suppress_context__:
            earlier, joint = error.__context__, _CONTEXT
        else:
            break
        if id(earlier) in seen:
            break
        seen.add(id(earlier))
        text = _one(earlier, nesting) + joint + text
        error = earlier
    return text


def _one(error: BaseException, nesting: int) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    head = f"Traceback (most recent call last):\n{frames}" if frames else ""
    return f"{head}{type_name(error)}{_system_error(error)}\n{_members(error, nesting)}"


def _system_error(error: BaseException) -> str:
    """Return what the operating system says, without a file's name."""
    is_plain = isinstance(error, OSError) and type(error).__module__ == "builtins"
    number = error.errno if is_plain and isinstance(error, OSError) else None
    return f": [Errno {number}] {os.strerror(number)}" if isinstance(number, int) else ""


def _members(error: BaseException, nesting: int) -> str:
    if not isinstance(error, BaseExceptionGroup) or nesting >= _MAX_NESTING:
        return ""
    members = [_chain(member, nesting + 1) for member in error.exceptions[:_MAX_GROUP]]
    return "".join(f"  {line}\n" for text in members for line in ("-" * 20, *text.splitlines()))
