"""Finds variables that name a setting below another one that has none below it.

pydantic-settings builds a table of such variables, and then calls the value that nobody wrote a wrong one.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

from flow_worker.settings.faults import PREFIX

_SINGLE = (str, int, float, Enum, Path, SecretStr)


def nesting_faults(variable: str, kind: type[BaseModel]) -> list[str]:
    """Return a line for the variable if it goes beyond a single value or a list; else an empty list."""
    parts = variable.removeprefix(PREFIX).lower().split("__")
    options: list[Any] = [kind]
    for depth, part in enumerate(parts[:-1], 1):
        options = [each for option in options for each in _below(option, part)]
        if not options or any(not _is_single(option) and not _is_list(option) for option in options):
            continue
        upper = "__".join((PREFIX + parts[0], *parts[1:depth])).upper()
        if any(map(_is_list, options)):
            return [f'{variable}: no such setting; {upper} is a list: write it as JSON, such as \'["a", "b"]\'']
        return [f"{variable}: no such setting; {upper} has no settings below it: set {upper}, without a suffix"]
    return []


def _below(option: Any, name: str) -> Iterator[Any]:
    """Yield the types of the setting with this name in a group or a table."""
    if isinstance(option, type) and issubclass(option, BaseModel):
        field = option.model_fields.get(name)
        if field is not None:
            yield from _alternatives(field.annotation)
    elif get_origin(option) is dict:
        yield from _alternatives(get_args(option)[1])


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union, without None and without annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from _alternatives(each)
    elif annotation is not types.NoneType:
        yield annotation


def _is_single(option: Any) -> bool:
    return get_origin(option) is Literal or (isinstance(option, type) and issubclass(option, _SINGLE))


def _is_list(option: Any) -> bool:
    return get_origin(option) in (list, tuple)
