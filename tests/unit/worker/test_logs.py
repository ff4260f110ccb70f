"""Text that a sender, a flow or a queue chose cannot forge a line, a field or an event of the log, nor hide one."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from flow_worker.telemetry import logs
from flow_worker.telemetry.folding import FoldingHandler
from flow_worker.telemetry.stacktraces import stacktrace
from tests.support.processes import CHECKOUT

VICTIM = "access.allowed flow=payroll caller=VICTIM"
TEXT, JSON = logs._Text(), logs._Json()


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
        logs.log(logger, logging.WARNING, "test.event", f"'{flow}' may not.", flow=flow, code="a_code")
    finally:
        logger.removeHandler(recording)
    return lines[0]


def from_sdk(formatter: logging.Formatter, message: str, error: Exception | None = None) -> str:
    """Return the line of an SDK's record, which has no event."""
    exc_info = None if error is None else (type(error), error, None)
    return formatter.format(logging.LogRecord("azure.x", logging.WARNING, "", 0, "%s", (message,), exc_info))


@pytest.mark.parametrize(
    "break_",
    [
        *("\n", "\r", "\r\n", "\x1b[31m", "\x1b]8;;http://x\x07", "\x9b31m", "\x00", "\x08", "\x7f", "\v", "\f"),
        *("\x1c", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041", "\ud800", "\udfff"),
    ],
)
def test_a_line_break_or_control_character_from_a_sender_stays_on_its_line(logger: logging.Logger, break_: str) -> None:
    forged = f"x{break_}12:00:00.000 INFO    worker.audit: may be started."
    for line in (written(logger, TEXT, forged), from_sdk(TEXT, forged), from_sdk(TEXT, "x", ValueError(forged))):
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        assert line.isascii()
    for document in (written(logger, JSON, forged), from_sdk(JSON, forged), from_sdk(JSON, "x", ValueError(forged))):
        assert len(document.splitlines()) == 1
        assert document.isprintable()
        assert document.isascii()
    readable = re.sub("[\ud800-\udfff]", "\ufffd", forged)  # half a surrogate pair is an error to some parsers
    assert json.loads(written(logger, JSON, forged))["flow"] == readable


@pytest.mark.parametrize(
    "forged",
    [
        f"x] {VICTIM}",
        f"x] [{VICTIM}]",
        f"x' may. [{VICTIM}]",
        f'x" {VICTIM}',
        f'x\\" {VICTIM} ',
        f"x {VICTIM}",
        f"x\t{VICTIM}",
        f"x\u00a0{VICTIM}",
        f"x\uff3d {VICTIM}",  # a full-width bracket
        f"\u05d0\u05d1 {VICTIM}",  # letters written from right to left
    ],
)
def test_a_value_cannot_forge_a_field_or_an_event_of_a_text_line(logger: logging.Logger, forged: str) -> None:
    line = written(logger, TEXT, forged)
    assert line.count("[") == line.count("]") == 1
    assert re.findall(r"\[(\S+)", line) == ["test.event"]
    assert re.findall(r"(\w+)=", line) == ["flow", "code"]
    fields = line[line.index("[") : -1]
    assert fields.isascii()
    quoted = re.search(r'flow=("(?:[^"\\]|\\.)*") code=a_code$', fields)
    assert quoted is not None
    assert json.loads(quoted[1]) == forged
    assert "[" not in from_sdk(TEXT, forged, ValueError(forged))


@pytest.mark.parametrize("plain", ["create-quote", "queue/$deadletterqueue", "a.b:c@d", "2026-11-30T08:00+00:00"])
def test_an_ordinary_value_stays_without_quotes(logger: logging.Logger, plain: str) -> None:
    assert written(logger, TEXT, plain).endswith(f": '{plain}' may not. [test.event flow={plain} code=a_code]")


def test_an_error_text_in_a_traceback_cannot_forge_a_line(logger: logging.Logger) -> None:
    forged = f"x\n12:00:00.000 INFO    flow_worker.audit: may. [{VICTIM}]\x1b[2K"
    error = (ValueError, ValueError(forged), None)
    record = logging.LogRecord("flow_worker.x", logging.ERROR, "", 0, "Failed.", (), error)
    first, *others = TEXT.format(record).split("\n")
    assert first.endswith("Failed.")
    assert others
    assert all(line.startswith("  | ") and line.isprintable() for line in others)
    assert len(JSON.format(record).splitlines()) == 1


@pytest.mark.parametrize("character", ["x", "\x00", "\U0001f600", "\n", '"', "\\"])
@pytest.mark.parametrize("formatter", [TEXT, JSON])
def test_a_long_value_does_not_make_a_line_that_collectors_split(
    logger: logging.Logger, formatter: logging.Formatter, character: str
) -> None:
    line = written(logger, formatter, character * 1_000_000)
    assert len(line) < 16_384
    assert "more characters" in line
    assert "a_code" in line


def test_sdk_messages_that_differ_each_time_are_folded_in_bounded_memory() -> None:
    class Stream:
        lines = 0

        def write(self, _: str) -> None:
            self.lines += 1

        def flush(self) -> None:
            """Nothing waits."""

    class Never:
        def cancel(self) -> None:
            """No call is due."""

    timers: list[Never] = []
    stream = Stream()
    handler = FoldingHandler(stream, later=lambda *_: timers.append(Never()) or timers[-1])  # type: ignore[arg-type, func-returns-value]  # a part of a stream
    for number in range(5_000):
        handler.emit(logging.LogRecord("azure.x", logging.WARNING, "", 0, f"Refused: {number}", (), None))
    assert len(timers) == stream.lines < 300


@pytest.mark.parametrize("formatter", [TEXT, JSON])
def test_a_secret_in_the_text_of_an_error_is_masked(logger: logging.Logger, formatter: logging.Formatter) -> None:
    error = ValueError("https://x.example/runs/1?sig=hushhush")
    ours = logging.LogRecord("flow_worker.x", logging.ERROR, "", 0, "%s", ("x",), (ValueError, error, None))
    for line in (formatter.format(ours), from_sdk(formatter, "x", error)):
        assert "ValueError" in line
        assert "hushhush" not in line


def test_a_text_line_has_the_date_puts_flow_and_result_first_and_drops_what_is_not_known(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fields: dict[str, logs.Field] = {
        "lane": "q#1",
        "code": None,
        "message_id": "m",
        "seconds": 0.25,
        "attempts": 0,
        "http_status": 200,
        "status": "succeeded",
        "flow": "f",
    }
    logs.log(logger, logging.INFO, "test.event", "f: succeeded.", **fields)
    [record] = caplog.records
    line = TEXT.format(record)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO ", line)
    expected = 'flow=f status=succeeded http_status=200 attempts=0 seconds=0.25 lane="q#1" message_id=m'
    assert line.endswith(f"f: succeeded. [test.event {expected}]")
    document = json.loads(JSON.format(record))
    in_json = {name: document[logs._NAMES_IN_JSON.get(name, name)] for name in fields}
    assert in_json == fields, "JSON keeps what is not known"


def test_a_json_line_has_the_names_of_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=orders%20eu")
    record = logging.LogRecord("flow_worker.x", logging.WARNING, "", 0, "%s", ("A sentence.",), None)
    record.event = "test.event"
    record.fields = {
        "lane": "q#1",
        "message_id": "m",
        "correlation_id": "c",
        "delivery": 2,
        "queue": "q",
        "http_status": 200,
        "error": "no answer",
        "version": "1.0",
    }
    with use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))):
        document = json.loads(logs._Json().format(record))
    assert datetime.fromisoformat(document.pop("timestamp")).utcoffset() == timedelta(0)
    assert document == {
        "severity_text": "WARNING",
        "severity_number": 13,
        "body": "A sentence.",
        "event_name": "test.event",
        "lane": "q#1",
        "messaging.message.id": "m",
        "messaging.message.conversation_id": "c",
        "messaging.servicebus.message.delivery_count": 2,
        "messaging.destination.name": "q",
        "http.response.status_code": 200,
        "error.message": "no answer",
        "service.version": "1.0",
        "trace_id": f"{1:032x}",
        "span_id": f"{2:016x}",
        "trace_flags": "01",
        "otel.scope.name": "flow_worker.x",
        "service.name": "orders eu",
    }


# --- exceptions ------------------------------------------------------------------------------------------------------

CANARY = "canary-77aa"


class Unusual(Exception):
    """An error with an attribute, whose text is made from it."""

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return f"'{self.value}' is unusual"


def _noted() -> Exception:
    error = ValueError("x")
    error.add_note(CANARY)
    return error


def _chained(error: Exception, *, context: bool = False) -> Exception:
    try:
        try:
            raise error
        except type(error) as cause:
            if context:
                raise LookupError(CANARY)  # noqa: B904 - the implicit context
            raise LookupError(CANARY) from cause
    except LookupError as chained:
        return chained


@pytest.mark.parametrize(
    ("error", "types"),
    [
        (ValueError(f"no number: {CANARY}"), ["ValueError"]),
        (KeyError(CANARY), ["KeyError"]),
        (Unusual(CANARY), ["test_logs.Unusual"]),
        (OSError(28, CANARY, f"/somewhere/{CANARY}"), ["OSError: [Errno 28] No space left on device"]),
        (UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY), ["UnicodeDecodeError"]),
        (_noted(), ["ValueError"]),
        (_chained(Unusual(CANARY)), ["test_logs.Unusual", "direct cause", "LookupError"]),
        (_chained(KeyError(CANARY), context=True), ["KeyError", "During handling", "LookupError"]),
        (ExceptionGroup(CANARY, [ValueError(CANARY), _chained(KeyError(CANARY))]), ["ExceptionGroup", "ValueError"]),
        (json.JSONDecodeError("x", f'{{"{CANARY}"', 3), ["json.decoder.JSONDecodeError"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_line_has_the_text_of_an_exception(error: Exception, types: list[str]) -> None:
    """It may quote an input, an output, a claim or what a flow answered."""
    record = logging.LogRecord("flow_worker.x", logging.ERROR, "", 0, "Failed.", (), (type(error), error, None))
    text, document = TEXT.format(record), json.loads(JSON.format(record))
    assert CANARY not in text + json.dumps(document)
    for expected in types:
        assert expected in text
        assert expected in document["exception.stacktrace"]
    assert document["exception.type"].endswith(type(error).__name__)


def test_an_exception_chain_that_is_a_ring_ends() -> None:
    first, second = ValueError(CANARY), KeyError(CANARY)
    first.__cause__, second.__cause__ = second, first
    assert stacktrace(first).count("ValueError") == 1


FAULTY = f"""
import sys
from flow_worker import app
from flow_worker.cli import worker
from flow_worker.cli.main import cli
from flow_worker.settings import Settings

async def fail(*_):
    raise ValueError("{CANARY}") from KeyError("{CANARY}")

app.run = fail
worker._load = lambda *_: Settings.model_validate({{
    "servicebus": {{"namespace": "contoso.servicebus.windows.net"}},
    "claims": {{"tenants": ["11111111-2222-3333-4444-555555555555"], "audiences": ["a"]}},
    "flows": {{"f": {{"url": "https://one.environment.api.powerplatform.com/flow", "role": "R"}}}},
}})
cli(["run", "--log-format", sys.argv[1]])
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fault_that_ends_the_worker_shows_no_text(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTY, form], cwd=CHECKOUT, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 1
    assert "worker.failed" in done.stderr
    assert "ValueError" in done.stderr
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.parametrize("formatter", [TEXT, JSON])
def test_asyncio_shows_no_object_in_its_message(formatter: logging.Formatter) -> None:
    """It shows tasks with their results, and with the texts of their exceptions."""
    message = f"Task exception was never retrieved\nfuture: <Task exception=ValueError('{CANARY}')>"
    slow = f"Executing <Task finished result='{CANARY}'> took 0.200 seconds"
    for each in (message, slow):
        error = (ValueError, ValueError(CANARY), None)
        line = formatter.format(logging.LogRecord("asyncio", logging.ERROR, "", 0, each, (), error))
        assert CANARY not in line
        assert "never retrieved" in line or "took 0.200 seconds" in line


# --- traces ----------------------------------------------------------------------------------------------------------


def test_a_line_within_a_span_carries_its_ids(logger: logging.Logger) -> None:
    context = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False)
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    with use_span(NonRecordingSpan(context)):
        document = json.loads(written(logger, JSON, "f"))
        text = written(logger, TEXT, "f")
    assert {name: document[name] for name in ids} == ids
    assert text.endswith(f" trace_id={ids['trace_id']} span_id={ids['span_id']}]")


def test_a_line_without_a_span_has_no_such_ids(logger: logging.Logger) -> None:
    assert "trace_id" not in written(logger, JSON, "f") + written(logger, TEXT, "f")
