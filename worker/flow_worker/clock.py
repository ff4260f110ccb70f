"""The worker's clock, and the times in Retry-After headers."""

from __future__ import annotations

import email.utils
import math
from datetime import UTC, datetime, timedelta

MAX_RETRY_AFTER = timedelta(days=1)
"""The header comes from outside: one faulty value must not stop a flow's calls for years."""


def now() -> datetime:
    """Return this machine's time in UTC, aware; see `BrokerClock` for times that the broker or other workers share."""
    return datetime.now(UTC)


def retry_after(header: str | None, since: datetime) -> datetime | None:
    """Return the time that a Retry-After header names: seconds or an HTTP date (RFC 9110, 10.2.3).

    At most one day after `since`; None if the header is missing or invalid, or names the past.
    """
    text = (header or "").strip()
    try:
        pause = timedelta(seconds=_finite(text))
    except ValueError:
        pause = _date(text, since) - since
    return since + min(pause, MAX_RETRY_AFTER) if pause > timedelta(0) else None


def _finite(text: str) -> float:
    # `float` also reads "inf", "nan" and "1e300", which `timedelta` refuses.
    seconds = float(text)
    if not math.isfinite(seconds):
        raise ValueError("not a number of seconds")
    return min(seconds, MAX_RETRY_AFTER.total_seconds())


def _date(text: str, default: datetime) -> datetime:
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return default
    # `email.utils` returns a naive time for the zone "-0000". HTTP dates are always in GMT (RFC 9110, 5.6.7).
    return date if date.tzinfo else date.replace(tzinfo=UTC)
