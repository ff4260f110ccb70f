"""The IDs of the current span, for log lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping

_API = "opentelemetry.trace"
_NO_SPAN: Mapping[str, str] = {}


def current_ids() -> Mapping[str, str]:
    """Return `trace_id` and `span_id` of the current span in hexadecimal; nothing without a span.

    The names are those of OpenTelemetry for logs in other formats than OTLP.
    """
    # Looked up, and not imported: the API takes 50 ms to import, and a process without it has no span.
    trace = sys.modules.get(_API)
    if trace is None:
        return _NO_SPAN
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return _NO_SPAN
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
