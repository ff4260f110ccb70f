"""The client tracking ID of a flow call, by which Power Automate's record of the run names the request."""

from __future__ import annotations

import hashlib
import re
from typing import Final

TRACKING_HEADER: Final = "x-ms-client-tracking-id"
_UNCHANGED: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""Texts that headers, URLs, OData strings and the platform's storage return as they are."""


def tracking_id(correlation_id: str) -> str:
    """Return the tracking ID of a request: its correlation ID, or a hash of one with other characters.

    It follows from the correlation ID alone. So a later search for the run uses the same value as the call.
    """
    if _UNCHANGED.fullmatch(correlation_id):
        return correlation_id
    digest = hashlib.sha256(correlation_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"sha256-{digest[:40]}"
