"""The plain data of the checks: what is checked, and what a check found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

CHECK_SECONDS = 40.0
"""The longest check. It is longer than the deadlines of a token (30 s) and of a link (30 s)."""


class Outcome(StrEnum):
    """The outcome of one check."""

    OK = "ok"
    FAILED = "failed"
    UNSEEN = "unseen"
    """It could not be checked from here, or it does not apply."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found. `aspect` replaces the check's name where one check finds several things."""

    outcome: Outcome
    detail: str
    remedy: str = ""
    aspect: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    name: str
    outcome: Outcome
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `name` is what it checks, such as a queue."""

    subject: str
    name: str
    run: Callable[[], Awaitable[Result | list[Result]]]
    seconds: float = CHECK_SECONDS


def ok(detail: str, *, aspect: str = "") -> Result:
    """Return the result of a check that found nothing wrong."""
    return Result(Outcome.OK, detail, aspect=aspect)


def failed(detail: str, remedy: str, *, aspect: str = "") -> Result:
    """Return the result of a check that found a fault, with the remedy as an imperative."""
    return Result(Outcome.FAILED, detail, remedy, aspect)


def unseen(detail: str, remedy: str = "", *, aspect: str = "") -> Result:
    """Return the result of a check that could not decide, or that does not apply."""
    return Result(Outcome.UNSEEN, detail, remedy, aspect)
