"""Shortens IDs to what tells them apart, so that a table has room for the text that a person reads."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

_MAX_WHOLE = 20
"""A shorter ID stays whole: people choose such IDs, and recognise them."""
_MIN_PART = 8
_MAX_PART = 18
_MAX_NAMED = 10
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return the short form of each ID: its beginning, or its end if the beginnings are the same.

    No two IDs have the same short form. If neither part tells all apart, they stay whole.
    """
    every = set(ids)
    long = [one for one in every if len(one) > _MAX_WHOLE]
    for size in range(_MIN_PART, _MAX_PART + 1):
        for shorten in (_head, _tail):
            short = {one: shorten(one, size) for one in long}
            if len(set(short.values())) == len(long):
                return {one: short.get(one, one) for one in every}
    return {one: one for one in every}


def is_meant(id_: str, given: str) -> bool:
    """Return whether a person means this ID: by its short form, its beginning, or another spelling of a GUID.

    More than one ID can be meant. The caller then names them.
    """
    if (guid := _guid(given)) is not None:
        return guid == _guid(id_)
    for ellipsis in (ELLIPSIS, "..."):
        if given.startswith(ellipsis):
            end = given.removeprefix(ellipsis)
            return len(end) >= _MIN_PART and id_.endswith(end)
        given = given.removesuffix(ellipsis)
    return len(given) >= _MIN_PART and id_.lower().startswith(given.lower())


def ambiguous(given: str, ids: Sequence[str]) -> str:
    """Return the sentence that names the IDs of which one can be meant."""
    more = f" and {len(ids) - _MAX_NAMED} more" if len(ids) > _MAX_NAMED else ""
    return f"{given} can mean {', '.join(ids[:_MAX_NAMED])}{more}. Give more of the ID."


def _guid(text: str) -> uuid.UUID | None:
    """Return the GUID in any spelling: capitals, braces, parentheses, or without hyphens."""
    try:
        return uuid.UUID(text.strip("{}()"))
    except ValueError:
        return None


def _head(text: str, size: int) -> str:
    return text[:size] + ELLIPSIS


def _tail(text: str, size: int) -> str:
    return ELLIPSIS + text[-size:]
