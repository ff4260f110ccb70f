"""Text that a sender chose cannot forge a line of the log."""

from __future__ import annotations

import json
import logging

import pytest

from flow_worker.telemetry import logs


@pytest.fixture
def logger() -> logging.Logger:
    return logging.getLogger("flow_worker.test_logs")


def written(logger: logging.Logger, formatter: logging.Formatter, flow: str) -> str:
    lines: list[str] = []

    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    recording = Recording()
    logger.addHandler(recording)
    try:
        logs.log(logger, logging.WARNING, "test.event", f"'{flow}' may not.", flow=flow)
    finally:
        logger.removeHandler(recording)
    return lines[0]


@pytest.mark.parametrize("break_", ["\n", "\r", "\r\n", "\x1b[31m", "\u2028", "\x85", "\x00", "\ud800"])
def test_a_line_break_or_control_character_from_a_sender_stays_on_its_line(logger: logging.Logger, break_: str) -> None:
    forged = f"x{break_}12:00:00.000 INFO    worker.audit: may be started."
    line = written(logger, logs._Text(), forged)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    document = written(logger, logs._Json(), forged)
    assert not {"\n", "\r"} & set(document)
    assert json.loads(document)["flow"] == forged
