"""Checks the name of a queue by the naming rule of Service Bus."""

from __future__ import annotations

import re

MAX_LENGTH = 260
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._~/-]*[A-Za-z0-9])?")


def queue_name_fault(name: str) -> str | None:
    """Return what is wrong with a queue's name, without the name: it may be a key. None if nothing is."""
    if not name:
        return "is empty"
    if len(name) > MAX_LENGTH:
        return f"has {len(name)} characters; Service Bus allows {MAX_LENGTH} in a queue's name"
    if not _NAME.fullmatch(name):
        return (
            "is not the name of a queue: Service Bus allows the letters A to Z, digits, '.', '-', '_', '~' and '/', "
            "with a letter or a digit at each end"
        )
    return None


def check_queue_name(name: object, parameter: str, example: str) -> str:
    """Return the name. Raises `ValueError`, which names the parameter and repeats no value: it may be a key."""
    if not isinstance(name, str):
        kind = "None" if name is None else f"of type {type(name).__name__}"
        raise ValueError(f"{parameter} must be the name of a queue, such as '{example}', but is {kind}")  # noqa: TRY004
    if not name:
        raise ValueError(f"{parameter} must be the name of a queue, such as '{example}', but is empty")
    if fault := queue_name_fault(name):
        raise ValueError(f"{parameter} {fault}; give a name such as '{example}'")
    return name
