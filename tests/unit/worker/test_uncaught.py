"""An error that ends a thread, or that Python cannot raise, is a line of the log without its text."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.context import attach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context

from flow_worker.telemetry import logs
from flow_worker.telemetry.uncaught import log_uncaught

CANARY = "canary-2f8b"


@pytest.fixture(autouse=True)
def _hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    log_uncaught()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines of the log in JSON, each formatted in the thread that wrote it."""
    written: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(logs._Json().format(record))

    handler = Lines()
    logging.getLogger("flow_worker").addHandler(handler)
    yield written
    logging.getLogger("flow_worker").removeHandler(handler)


def fail() -> None:
    raise RuntimeError(CANARY)


def run_in_thread(work: object) -> None:
    assert callable(work)
    thread = threading.Thread(target=work, name="a-thread")
    thread.start()
    thread.join()


def test_an_error_that_ends_a_thread_is_one_line(lines: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    run_in_thread(fail)
    run_in_thread(sys.exit)  # no error
    [line] = lines
    document = json.loads(line)
    assert (document["event_name"], document["thread"]) == ("thread.failed", "a-thread")
    assert (document["severity_text"], document["exception.type"]) == ("ERROR", "RuntimeError")
    assert "in fail" in document["exception.stacktrace"]
    assert CANARY not in line
    assert CANARY not in capfd.readouterr().err


def test_an_error_in_a_span_of_a_thread_has_the_ids_of_the_span(lines: list[str]) -> None:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("process flow-requests")

    def failing() -> None:
        attach(set_span_in_context(span))
        fail()

    run_in_thread(failing)
    [document] = map(json.loads, lines)
    context = span.get_span_context()
    assert (document["trace_id"], document["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")


def test_an_error_of_a_finalizer_is_one_line(lines: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    class Failing:
        def __del__(self) -> None:
            fail()

    Failing()
    [line] = lines
    document = json.loads(line)
    assert (document["event_name"], document["exception.type"]) == ("error.not_raised", "RuntimeError")
    assert CANARY not in line + capfd.readouterr().err
