"""Writes and reads the W3C trace context of a message. Anyone who may send can write any value there."""

from __future__ import annotations

import re

from flow_contracts.message import Message, property_of

TRACEPARENT = "traceparent"
"""The application property of the trace context."""

_FORM = re.compile(r"(?!ff)([0-9a-f]{2})(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-[!-~]*)?")
"""W3C Trace Context, section 3.2. A later version may have more fields behind those of version 00."""


def traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """Return the trace context of a span as text."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def parse_traceparent(text: str) -> str | None:
    """Return the trace context in version 00, which is what the worker sends; None if it is malformed."""
    match = _FORM.fullmatch(text)
    if match is None or (match[1] == "00" and match[3] is not None):
        return None
    return f"00{match[2]}"


def read_traceparent(message: Message) -> str | None:
    """Return the sender's trace context; None if it is malformed. azure-servicebus writes it as `Diagnostic-Id`."""
    for name in (TRACEPARENT, "Diagnostic-Id"):
        value = property_of(message, name)
        if isinstance(value, str) and (text := parse_traceparent(value)) is not None:
            return text
    return None
