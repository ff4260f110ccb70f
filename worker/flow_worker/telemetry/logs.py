"""Log lines: one sentence for a person, and a stable event name with fields for a machine."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Literal, assert_never

from flow_worker.telemetry.folding import FoldingHandler, is_from_sdk

Field = str | int | float | bool | None


def log(logger: logging.Logger, level: int, event: str, sentence: str, **fields: Field) -> None:
    """Write one line. `event` is stable across releases, because dashboards count it; `sentence` may change.

    From ERROR on, the line carries the traceback of the exception that is being handled.
    """
    if not logger.isEnabledFor(level):
        return
    exc_info = sys.exc_info() if level >= logging.ERROR and sys.exc_info()[0] is not None else None
    # `Logger.log` would walk the stack for the caller's file and line, which costs more than the rest of this function.
    extra = {"event": event, "fields": fields}
    logger.handle(logger.makeRecord(logger.name, level, "", 0, "%s", (sentence,), exc_info, extra=extra))


class _Text(logging.Formatter):
    """`12:00:01.123 WARNING flow_worker.lane: The sentence. [event key=value]`"""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{at}.{int(record.msecs):03} {record.levelname:<7} {record.name}: {record.getMessage()}"
        if event := getattr(record, "event", None):
            fields = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
            line += f" [{event}{' ' if fields else ''}{fields}]"
        if record.exc_info and not _shows_traceback(record):
            line += f" ({_cause(record)})"
        line = _on_one_line(line)
        if record.exc_info and _shows_traceback(record):
            line += "\n" + self.formatException(record.exc_info)
        return line


def _shows_traceback(record: logging.LogRecord) -> bool:
    """Return whether the line carries the record's traceback.

    SDKs log tracebacks of broken connections, which the worker expects and reports itself. They help only a person who
    debugs.
    """
    return not is_from_sdk(record) or logging.getLogger("flow_worker").isEnabledFor(logging.DEBUG)


def _cause(record: logging.LogRecord) -> str:
    kind, error, _ = record.exc_info or (None, None, None)
    return f"{kind.__name__}: {error}" if kind is not None else ""


def _on_one_line(text: str) -> str:
    """Escape every character that is not printable.

    Senders choose IDs and flow names. A line break in one of them could forge another line of the log. A terminal's
    control sequence could hide a line.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class _Json(logging.Formatter):
    """One JSON object per line, for log collectors. JSON itself escapes line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Field] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "event": getattr(record, "event", None),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and _shows_traceback(record):
            line["traceback"] = self.formatException(record.exc_info)
        elif record.exc_info:
            line["error"] = _cause(record)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Send the worker's log lines to stderr, from `level` on and in this form.

    The SDKs log from WARNING on whatever `level` is: below it they log every frame and every HTTP header.
    """
    handler = FoldingHandler(sys.stderr)
    handler.setFormatter(_formatter(form))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("azure", "httpx", "aiohttp.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _formatter(form: Literal["text", "json"]) -> logging.Formatter:
    match form:
        case "text":
            return _Text()
        case "json":
            return _Json()
        case _:
            assert_never(form)
