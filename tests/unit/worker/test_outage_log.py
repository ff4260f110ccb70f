"""An outage takes few lines, and every failed attempt is counted in one of them."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from flow_worker.telemetry import logs
from flow_worker.telemetry.folding import FoldingHandler
from flow_worker.telemetry.outage_log import OutageEvents, OutageLog

EVENTS = OutageEvents(
    failing="test.failing",
    failing_sentence="Lanes reconnect to '{}'",
    recovered="test.recovered",
    recovered_sentence="'{}' works again.",
    participants="lanes",
)


@dataclass
class Time:
    """A clock that the test moves; due calls run on the way."""

    now: float = 0.0
    calls: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float, call: Callable[[], None]) -> Time.Entry:
        entry = (self.now + seconds, call)
        self.calls.append(entry)
        return Time.Entry(self.calls, entry)

    def pass_(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [entry for entry in self.calls if entry[0] <= end]:
            first = min(due, key=lambda entry: entry[0])
            self.calls.remove(first)
            self.now = first[0]
            first[1]()
        self.now = end

    @dataclass
    class Entry:
        calls: list[tuple[float, Callable[[], None]]]
        entry: tuple[float, Callable[[], None]]

        def cancel(self) -> None:
            if self.entry in self.calls:
                self.calls.remove(self.entry)


class Lines:
    """The written lines of an outage log under test."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO)
        self.time = Time()
        self.log = OutageLog(
            logging.getLogger("flow_worker.test"), "q", EVENTS, monotonic=self.time, later=self.time.later
        )

    @property
    def seen(self) -> list[tuple[str, dict[str, object]]]:
        return [
            (vars(record)["event"], vars(record)["fields"])
            for record in self._caplog.records
            if "event" in vars(record)
        ]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


def test_sixteen_lanes_in_an_outage_of_a_minute_take_a_line_at_once_one_each_ten_seconds_and_one_at_the_end(
    lines: Lines,
) -> None:
    for second in range(60):
        for lane in range(16):
            lines.log.failed(lane, ConnectionError(f"reset {second}"))
        lines.time.pass_(1)
    for lane in range(16):
        lines.log.recovered(lane)
    events = [event for event, _ in lines.seen]
    assert events == ["test.failing"] * 7 + ["test.recovered"]
    assert lines.seen[0] == ("test.failing", {"queue": "q", "lanes": 1, "attempts": 1})
    assert lines.seen[1][1]["lanes"] == 16
    assert lines.seen[-1] == ("test.recovered", {"queue": "q", "attempts": 16 * 60, "seconds": 60})


def test_an_error_of_another_type_is_written_at_once(lines: Lines) -> None:
    lines.log.failed(1, ConnectionError("reset"))
    lines.log.failed(1, ConnectionError("reset"))
    lines.log.failed(1, PermissionError("no role"))
    assert [fields["attempts"] for _, fields in lines.seen] == [1, 2]


def test_a_short_outage_takes_a_line_for_its_begin_and_one_for_its_end(lines: Lines) -> None:
    lines.log.failed(1, ConnectionError("reset"))
    lines.log.recovered(1)
    lines.time.pass_(100)
    assert [event for event, _ in lines.seen] == ["test.failing", "test.recovered"]


def test_a_connection_that_fails_again_and_again_is_folded_and_still_counted(lines: Lines) -> None:
    for _ in range(300):  # in 60 s
        lines.log.failed(1, ConnectionError("undecodable"))
        lines.time.pass_(0.1)
        lines.log.recovered(1)
        lines.time.pass_(0.1)
    lines.time.pass_(20)
    assert len(lines.seen) <= 15
    assert lines.seen[-1][0] == "test.recovered"
    assert not lines.time.calls


def test_counts_are_written_when_the_last_participant_gives_up(lines: Lines) -> None:
    for _ in range(3):
        lines.log.failed(1, ConnectionError("reset"))
    lines.log.gave_up(1)
    assert [fields["attempts"] for _, fields in lines.seen] == [1, 2]
    lines.log.recovered(2)
    assert lines.seen[-1][0] == "test.recovered", "another message was accepted at once"


@pytest.fixture
def handler() -> FoldingHandler:
    handler = FoldingHandler(io.StringIO(), later=(time := Time()).later)
    handler.setFormatter(logs._Text())
    handler.time = time  # type: ignore[attr-defined]  # for the tests below
    return handler


def sdk_failure(handler: FoldingHandler, text: str = "Handler cleanup did not complete.") -> None:
    error = AttributeError("'NoneType' object has no attribute 'x'")
    name = "azure.servicebus.aio._async_utils"
    handler.handle(logging.LogRecord(name, logging.WARNING, "", 0, text, (), (type(error), error, None)))


def test_lines_of_the_sdk_are_folded_have_no_traceback_and_are_counted(handler: FoldingHandler) -> None:
    for _ in range(52):
        sdk_failure(handler)
    handler.time.pass_(60)  # type: ignore[attr-defined]
    written = handler.stream.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(written) == 2
    assert "Handler cleanup did not complete. (AttributeError: 'NoneType'" in written[0]
    assert "(51 times more within 10 s)" in written[1]
    sdk_failure(handler)
    assert len(handler.stream.getvalue().splitlines()) == 3, "a later outage shows at once"  # type: ignore[attr-defined]


def test_other_lines_of_the_sdk_and_lines_of_the_worker_are_not_held_back(handler: FoldingHandler) -> None:
    sdk_failure(handler, "one")
    sdk_failure(handler, "two")
    for _ in range(2):
        handler.handle(logging.LogRecord("flow_worker.x", logging.WARNING, "", 0, "mine", (), None))
    assert len(handler.stream.getvalue().splitlines()) == 4  # type: ignore[attr-defined]


def test_the_end_of_the_program_writes_the_counts(handler: FoldingHandler) -> None:
    sdk_failure(handler)
    sdk_failure(handler)
    handler.close()
    assert "(1 times more within 10 s)" in handler.stream.getvalue()  # type: ignore[attr-defined]
