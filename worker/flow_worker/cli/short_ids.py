"""Shortens IDs to what tells them apart, so that a table has room for the text that a person reads."""

from __future__ import annotations

from collections.abc import Iterable

_MAX_WHOLE = 20
"""A shorter ID stays whole: people choose such IDs, and recognise them."""
_MIN_PART = 8
_MAX_PART = 18
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


def _head(text: str, size: int) -> str:
    return text[:size] + ELLIPSIS


def _tail(text: str, size: int) -> str:
    return ELLIPSIS + text[-size:]
