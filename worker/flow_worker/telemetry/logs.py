"""Log lines: one sentence for a person, and a stable event name with fields for a machine."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal, assert_never
from urllib.parse import unquote

from flow_worker.masking import masked
from flow_worker.telemetry import conventions as names
from flow_worker.telemetry.folding import FoldingHandler, is_from_sdk
from flow_worker.telemetry.stacktraces import stacktrace, type_name
from flow_worker.telemetry.trace_context import current_flags, current_ids

WORKER: Final = "flow-worker"
GATEWAY: Final = "flow-worker-gateway"
"""The names of the services, by default."""

Field = str | int | float | bool | None


def log(logger: logging.Logger, level: int, event: str, sentence: str, **fields: Field) -> None:
    """Write one line. `event` is stable across releases, because dashboards count it; `sentence` may change.

    From ERROR on, the line carries the traceback of the exception that is being handled, without its text.
    """
    if not logger.isEnabledFor(level):
        return
    if level >= logging.WARNING:  # these lines may quote an SDK or a server; the lines of every request do not
        sentence = masked(sentence)
    exc_info = sys.exc_info() if level >= logging.ERROR and sys.exc_info()[0] is not None else None
    # `Logger.log` would walk the stack for the caller's file and line, which costs more than the rest of this function.
    extra = {"event": event, "fields": fields}
    logger.handle(logger.makeRecord(logger.name, level, "", 0, "%s", (sentence,), exc_info, extra=extra))


_MAX_LINE_CHARACTERS = 16_000
"""Collectors split longer lines (Docker's log drivers at 16 KiB), and the second part would look like another line."""
_MAX_VALUE_CHARACTERS = (4_000, 400, 80)
"""The limits of one text. The next one applies if the line is still too long."""


def _within_limits(render: Callable[[int], str]) -> str:
    """Return the line with the first limit under which it is short enough."""
    line = ""
    for limit in _MAX_VALUE_CHARACTERS:
        line = render(limit)
        if len(line) <= _MAX_LINE_CHARACTERS:
            break
    return line


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


_REPRESENTATIONS = re.compile(r"<.*>|\n.*", re.DOTALL)
"""Objects in a message of asyncio: a task and a future show their result or the text of their exception."""


def _sentence(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return _REPRESENTATIONS.sub("", text) if record.name == "asyncio" else text


class _Formatter(logging.Formatter):
    def formatException(self, ei: object) -> str:  # noqa: N802 - the name of the base class
        error = ei[1] if isinstance(ei, tuple) else None
        return stacktrace(error) if isinstance(error, BaseException) else ""


class _Text(_Formatter):
    """`2026-11-30 12:00:01.123 WARNING flow_worker.lane: The sentence. [event flow=name other="a value"]`

    The time is local. Flow and result come first in the fields, and fields without a value are left out.

    The first `[` of a line begins the event, and its `]` ends the line, because texts from elsewhere contain neither.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = _within_limits(partial(self._line, record))
        if record.exc_info and _shows_traceback(record):
            line += "\n" + _indented(self.formatException(record.exc_info))
        return line

    def _line(self, record: logging.LogRecord, limit: int) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        event = getattr(record, "event", None)
        sentence = _shortened(_sentence(record), limit)
        line = f"{at}.{int(record.msecs):03} {record.levelname:<7} {record.name}: {_as_sentence(sentence, event)}"
        if event:
            named = _present({**getattr(record, "fields", {}), **current_ids()})
            fields = "".join(f" {key}={_as_value(value, limit)}" for key, value in named)
            line += f" [{event}{fields}]"
        if record.exc_info and not _shows_traceback(record):
            line += f" ({_as_sentence(_shortened(_cause(record), limit), event)})"
        return line


_FIRST_FIELDS = ("flow", "status", "code", "reason", "http_status", "attempts", "seconds")
"""The fields that answer a reader's first question. The IDs are long and would push them off the terminal."""


def _present(fields: Mapping[str, Field]) -> list[tuple[str, Field]]:
    """Return the fields that have a value, the most telling first."""
    first = [(name, fields[name]) for name in _FIRST_FIELDS if name in fields]
    others = [(name, value) for name, value in fields.items() if name not in _FIRST_FIELDS]
    return [(name, value) for name, value in (*first, *others) if value is not None]


def _shows_traceback(record: logging.LogRecord) -> bool:
    """Return whether the line carries the record's traceback.

    SDKs log tracebacks of broken connections, which the worker expects and reports itself. They help only a person who
    debugs.
    """
    return not is_from_sdk(record) or logging.getLogger("flow_worker").isEnabledFor(logging.DEBUG)


def _cause(record: logging.LogRecord) -> str:
    kind, error, _ = record.exc_info or (None, None, None)
    # An error of a library may quote a URL or a header.
    return masked(f"{kind.__name__}: {error}") if kind is not None else ""


_NUMBERS = (int, float)
_is_plain = re.compile(r"[A-Za-z0-9_.:/@$+,~-]+").fullmatch
"""Matches the values that need no quotes."""
_DELIMITERS = frozenset("[]=")
_ESCAPED_IN_VALUES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "[]=\x7f"})
_ESCAPED_IN_SENTENCES = str.maketrans({"[": r"\x5b", "]": r"\x5d"})
_ESCAPED_BEFORE_EVENTS = str.maketrans({"[": r"\x5b", "]": r"\x5d", "=": r"\x3d"})


def _as_value(value: object, limit: int) -> str:
    """Return a field's value for a text line: plain, or quoted in ASCII.

    Senders choose IDs and flow names. A bracket, an equals sign or a space in one of them could forge another field
    or event, and letters that are written from right to left could show the fields in another order.
    """
    if value is None or isinstance(value, _NUMBERS):
        return str(value)
    text = _shortened(str(value), limit)
    return text if _is_plain(text) else json.dumps(text).translate(_ESCAPED_IN_VALUES)


def _as_sentence(text: str, event: str | None) -> str:
    """Return the text on one line, without the characters that delimit events and, before an event, its fields."""
    if _DELIMITERS.isdisjoint(text):
        return _on_one_line(text)
    return _on_one_line(text.translate(_ESCAPED_BEFORE_EVENTS if event else _ESCAPED_IN_SENTENCES))


def _on_one_line(text: str) -> str:
    """Escape every character that is not printable.

    A line break in a text from elsewhere could forge another line of the log. A terminal's control sequence could hide
    a line, and a direction mark could reorder one.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _indented(traceback: str) -> str:
    """Return a traceback whose lines cannot be mistaken for lines of the log: an error's text may have line breaks."""
    return "\n".join(f"  | {_on_one_line(_shortened(line, 1_000))}" for line in traceback.split("\n"))


_SEVERITY_NUMBERS = {logging.DEBUG: 5, logging.INFO: 9, logging.WARNING: 13, logging.ERROR: 17, logging.CRITICAL: 21}
"""The numbers of OpenTelemetry's log data model."""

_NAMES_IN_JSON = {
    "message_id": names.MESSAGE_ID,
    "correlation_id": names.CONVERSATION_ID,
    "delivery": names.DELIVERY_COUNT,
    "queue": names.DESTINATION,
    "http_status": names.STATUS_CODE,
    "error": "error.message",
    "version": "service.version",
}
"""The fields that OpenTelemetry's semantic conventions have an attribute for."""


class _Json(_Formatter):
    """One JSON object per line, in ASCII, for log collectors, with the names of OpenTelemetry's log data model.

    Some collectors and editors end a line at U+0085 or U+2028, and terminals obey control characters.
    """

    def __init__(self, service: str = WORKER) -> None:
        super().__init__()
        self._service = _service_name(service)

    def format(self, record: logging.LogRecord) -> str:
        return _within_limits(partial(self._line, record))

    def _line(self, record: logging.LogRecord, limit: int) -> str:
        fields = getattr(record, "fields", {})
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity_text": record.levelname,
            "severity_number": _SEVERITY_NUMBERS.get(record.levelno, 0),
            "body": _json_value(_sentence(record), limit),
            "event_name": getattr(record, "event", None),
            **{_NAMES_IN_JSON.get(key, key): _json_value(value, limit) for key, value in fields.items()},
            **current_ids(),
            **current_flags(),
            "otel.scope.name": record.name,
            "service.name": self._service,
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception.type"] = type_name(record.exc_info[1])
            if is_from_sdk(record):
                line["exception.message"] = _json_value(masked(str(record.exc_info[1])), limit)
            if _shows_traceback(record):
                # The end names the error.
                stack = self.formatException(record.exc_info)[-2 * limit :]
                line["exception.stacktrace"] = _json_value(stack, 2 * limit)
        return json.dumps(line).replace("\x7f", "\\u007f")


def _service_name(default: str) -> str:
    """Return the name that the exporters of metrics and spans use, too."""
    if name := os.environ.get("OTEL_SERVICE_NAME", "").strip():
        return name
    pairs = (pair.partition("=") for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    named = (unquote(value.strip()) for key, _, value in pairs if key.strip() == "service.name")
    return next(named, "") or default


def _json_value(value: object, limit: int) -> object:
    """Return a value that every JSON parser reads: half a surrogate pair is an error to some."""
    if value is None or isinstance(value, _NUMBERS):
        return value
    text = _shortened(str(value), limit)
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def configure(level: str, form: Literal["text", "json"], service: str = WORKER) -> None:
    """Send the log lines of this service to stderr, from `level` on and in this form.

    The SDKs log from WARNING on whatever `level` is: below it they log every frame and every HTTP header.
    """
    handler = FoldingHandler(sys.stderr)
    handler.setFormatter(_formatter(form, service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("azure", "httpx", "aiohttp.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _formatter(form: Literal["text", "json"], service: str) -> logging.Formatter:
    match form:
        case "text":
            return _Text()
        case "json":
            return _Json(service)
        case _:
            assert_never(form)
