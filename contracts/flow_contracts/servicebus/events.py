"""Logs structured events: a stable event name, fields for a machine, a sentence for a person."""

from __future__ import annotations

import logging


def log_event(logger: logging.Logger, level: int, event: str, sentence: str, **fields: str | int | None) -> None:
    """Log `sentence`; formatters find `event` and `fields` as attributes of the record."""
    logger.log(level, "%s", sentence, extra={"event": event, "fields": fields})
