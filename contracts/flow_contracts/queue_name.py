"""Checks the name of a queue by the naming rule of Service Bus."""

from __future__ import annotations

import re

MAX_LENGTH = 260
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._~/-]*[A-Za-z0-9])?")


def check_queue_name(name: object, parameter: str, example: str) -> str:
    """Return the name. Raises `ValueError`, which names the parameter and repeats no value: it may be a key."""
    if not isinstance(name, str):
        kind = "None" if name is None else f"of type {type(name).__name__}"
        raise ValueError(f"{parameter} must be the name of a queue, such as '{example}', but is {kind}")  # noqa: TRY004
    if not name:
        raise ValueError(f"{parameter} must be the name of a queue, such as '{example}', but is empty")
    if len(name) > MAX_LENGTH:
        raise ValueError(f"{parameter} has {len(name)} characters; Service Bus allows {MAX_LENGTH} in a queue's name")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{parameter} is not the name of a queue: Service Bus allows the letters A to Z, digits, '.', '-', '_', "
            f"'~' and '/', with a letter or a digit at each end; give a name such as '{example}'"
        )
    return name
