"""Tells the codes of the worker and of the platform from those that a flow chooses."""

from __future__ import annotations

import re

from flow_worker.flows.platform import PlatformCode
from flow_worker.telemetry.codes import RESULT_CODES
from flow_worker.telemetry.metrics import OTHER

_CODES = RESULT_CODES | {code.value for code in PlatformCode}
_HTTP_CODE = re.compile(r"http_([1-5])[0-9]{2}")


def bounded_code(code: str | None) -> str:
    """Return the code if it is of our own list, a class such as `http_4xx`, or an empty text for no code."""
    if code is None or code in _CODES:
        return code or ""
    http = _HTTP_CODE.fullmatch(code)
    return OTHER if http is None else f"http_{http[1]}xx"


def logged_code(code: str | None) -> str | None:
    """Return the code for the log. A code that the flow chose is a part of its answer, and becomes `_OTHER`."""
    return code if code is None or code in _CODES or _HTTP_CODE.fullmatch(code) else OTHER
