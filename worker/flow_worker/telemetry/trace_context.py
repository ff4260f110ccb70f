"""The IDs of the current span, for log lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

_API = "opentelemetry.trace"


def current_ids() -> Mapping[str, str]:
    """Return `trace_id` and `span_id` of the current span in hexadecimal; nothing without a span.

    The names are those of OpenTelemetry for logs in other formats than OTLP.
    """
    context = _current()
    return {} if context is None else {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def current_flags() -> Mapping[str, str]:
    """Return `trace_flags` of the current span, as in a `traceparent`; nothing without a span."""
    context = _current()
    return {} if context is None else {"trace_flags": f"{context.trace_flags:02x}"}


def _current() -> SpanContext | None:
    # Looked up, and not imported: the API takes 50 ms to import, and a process without it has no span.
    trace = sys.modules.get(_API)
    if trace is None:
        return None
    context: SpanContext = trace.get_current_span().get_span_context()
    return context if context.is_valid else None
