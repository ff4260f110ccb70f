"""Turns an answer of Dataverse's Web API to a write into the outcome of an attempt.

An error's text can repeat what was sent, so no outcome contains it. Error codes: Microsoft Learn, "Web service error
codes".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from flow_worker.dataverse.client import DATAVERSE_THROTTLED, DATAVERSE_UNAVAILABLE, WebApiAnswer
from flow_worker.dataverse.request_budget import BudgetSpent
from flow_worker.delivery.port import Attempt, Delivered, GiveUp, Postponed, RetryLater
from flow_worker.errors import TemporarilyUnavailable

UNAUTHORIZED = "dataverse_unauthorized"
FORBIDDEN = "dataverse_forbidden"
NOT_FOUND = "dataverse_not_found"
UNEXPECTED = "dataverse_unexpected"
INVALID = "dataverse_invalid"
UNKNOWN_COLUMN = "dataverse_column_unknown"

_TOO_LONG = {"0x80044331", "0x80040360"}
"""A text that is longer than its column."""
_DUPLICATE_ROW = "0x80040237"
_DUPLICATE_KEY = {"0x80060892", _DUPLICATE_ROW}
_PLUG_IN = "0x80040265"
_ERROR_CODE = re.compile(r"0x[0-9a-f]{1,8}")
_GATEWAY_STATUSES = {408, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Write:
    """A write, as its answer is judged."""

    table: str
    """The entity set."""
    privileges: str
    """What the write needs, for the remedy of a refusal."""
    columns: Collection[str] = ()
    is_create: bool = False
    """The write creates a row, and changes none: a POST, or `If-None-Match: *`."""


def attempt_of(answer: WebApiAnswer, write: Write) -> Attempt:
    """Return the outcome of the attempt that got this answer."""
    status = answer.status
    if is_written(answer):
        return Delivered(is_new=write.is_create)
    if write.is_create and answer.error_code == _DUPLICATE_ROW:
        return Delivered(note="exists")
    if status == 412:
        return _precondition(answer, write)
    if status == 429:
        cause = "Dataverse throttles the worker's requests"
        return RetryLater(DATAVERSE_THROTTLED, cause, not_before=answer.retry_after, is_outage=True)
    if status >= 500 or status in _GATEWAY_STATUSES:
        # One row's plug-in can fail with 500, and a gateway or a maintenance page speaks for the whole organization.
        return RetryLater(
            DATAVERSE_UNAVAILABLE, f"Dataverse answered {shown_status(answer)}", answer.retry_after, status != 500
        )
    return _refused(answer, write)


def unavailable(error: TemporarilyUnavailable) -> Attempt:
    """Return the outcome of an attempt without an answer."""
    if isinstance(error, BudgetSpent):
        return Postponed(error.turn)
    return RetryLater(error.code, error.message, not_before=error.until, is_outage=True)


def is_written(answer: WebApiAnswer) -> bool:
    """Return whether Dataverse has written the row. A page of a proxy has the status 200 too, and is no JSON object."""
    if answer.status == 204:
        return True
    if answer.status not in (200, 201):
        return False
    try:
        answer.json()
    except ValueError:
        return False
    return True


def is_too_long(answer: WebApiAnswer) -> bool:
    """Return whether Dataverse refuses the write because a text, or all of it, is too long."""
    return answer.status == 413 or (answer.status == 400 and answer.error_code in _TOO_LONG)


def _precondition(answer: WebApiAnswer, write: Write) -> Attempt:
    if write.is_create:
        return Delivered(note="exists")
    cause = f"an alternate key of '{write.table}' already has these values; remove the key"
    return GiveUp(INVALID, f"{cause} ({shown_status(answer)})")


def _refused(answer: WebApiAnswer, write: Write) -> Attempt:
    shown = shown_status(answer)
    match answer.status:
        case 400 if answer.error_code in _DUPLICATE_KEY:
            return GiveUp(INVALID, f"an alternate key of '{write.table}' already has these values; remove the key")
        case 400 if (column := _unknown_column(answer, write)) is not None:
            cause = f"'{write.table}' has no column '{column}'; add it, or correct the sink's columns"
            return RetryLater(UNKNOWN_COLUMN, cause)
        case 400 | 413:
            return GiveUp(INVALID, _invalid(answer, write))
        case 401:
            cause = "Dataverse refuses the worker's token; make the worker's identity an application user"
            return RetryLater(UNAUTHORIZED, f"{cause} ({shown})", is_outage=True)
        case 403:
            return RetryLater(FORBIDDEN, f"Dataverse answered {shown}; grant {write.privileges}")
        case 404:
            cause = f"there is no table with the set name '{write.table}', or the URL is wrong; correct the sink"
            return RetryLater(NOT_FOUND, f"{cause} ({shown})")
        case _:
            cause = "this is no answer of Dataverse's Web API; check the URL, and any proxy on the way to it"
            return RetryLater(UNEXPECTED, f"{cause} ({shown})", is_outage=answer.status < 400)


def _invalid(answer: WebApiAnswer, write: Write) -> str:
    shown = shown_status(answer)
    if is_too_long(answer):
        return f"a text is longer than its column in '{write.table}'; make the columns as long as documented ({shown})"
    if answer.error_code == _PLUG_IN:
        return f"a plug-in or a business rule of '{write.table}' refuses the row; see its trace log ({shown})"
    return f"'{write.table}' refuses the row; compare its columns and their types with the documentation ({shown})"


def _unknown_column(answer: WebApiAnswer, write: Write) -> str | None:
    """Return the column that the table lacks. Only names from the settings are repeated."""
    text = answer.error_text
    if "property" not in text.lower():
        return None
    return next((name for name in write.columns if re.search(rf"\b{re.escape(name)}\b", text)), None)


def shown_status(answer: WebApiAnswer) -> str:
    """Return the status, and Dataverse's error code if the answer has one."""
    code = answer.error_code
    return f"{answer.status} {code}" if code is not None and _ERROR_CODE.fullmatch(code) else str(answer.status)
