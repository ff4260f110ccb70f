"""Writes and reads the W3C trace context of a message. Anyone who may send can write any value there."""

from __future__ import annotations

import re

from flow_contracts.message import Message, property_of

TRACEPARENT = "traceparent"
"""The application property of the trace context."""

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2: version 00, and later versions of the same form."""


def traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """Return the trace context of a span as text."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def read_traceparent(message: Message) -> str | None:
    """Return the sender's trace context; None if it is malformed. azure-servicebus writes it as `Diagnostic-Id`."""
    for name in (TRACEPARENT, "Diagnostic-Id"):
        value = property_of(message, name)
        if isinstance(value, str) and _FORM.fullmatch(value):
            return value
    return None
