"""Log lines: one sentence for a person, a stable event name and fields for a machine."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Literal

Field = str | int | float | bool | None


def log(logger: logging.Logger, level: int, event: str, sentence: str, **fields: Field) -> None:
    """Write one line. `event` is stable across releases (dashboards count on it); `sentence` may change.

    At ERROR and above, the exception being handled is shown with its traceback.
    """
    if not logger.isEnabledFor(level):
        return
    exc_info = sys.exc_info() if level >= logging.ERROR and sys.exc_info()[0] is not None else None
    # `Logger.log` would first look for the line of code that called it, which costs more than the rest.
    extra = {"event": event, "fields": fields}
    logger.handle(logger.makeRecord(logger.name, level, "", 0, "%s", (sentence,), exc_info, extra=extra))


class _Text(logging.Formatter):
    """`12:00:01.123 WARNING worker.lane: The sentence. [event key=value]`"""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{at}.{int(record.msecs):03} {record.levelname:<7} {record.name}: {record.getMessage()}"
        if event := getattr(record, "event", None):
            fields = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
            line += f" [{event}{' ' if fields else ''}{fields}]"
        line = _on_one_line(line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _on_one_line(text: str) -> str:
    """What senders chose, an ID or a flow's name, must not look like another line of the log."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class _Json(logging.Formatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Field] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "event": getattr(record, "event", None),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Send the worker's lines to stderr. The SDKs speak from WARNING on: below that they narrate every frame."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("azure", "httpx", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
