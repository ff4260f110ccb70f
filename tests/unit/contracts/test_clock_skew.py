"""The skew of this machine's clock follows from the broker's times, and is said once with its seconds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flow_contracts.client import ResultTimeout
from flow_contracts.servicebus.clock_skew import ClockSkew

BROKER = 1_800_000_000.0


class Machine:
    """A machine whose clock is ahead by `ahead`; its monotonic clock starts at 50."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead
        self.at = 50.0
        self.skew = ClockSkew(wall=lambda: BROKER + self.at + self.ahead, monotonic=lambda: self.at)

    def broker_time(self, plus: float = 0.0) -> datetime:
        return datetime.fromtimestamp(BROKER + self.at + plus, UTC)


@pytest.mark.parametrize("ahead", [75.0, 600.0, 86_400.0])
def test_a_result_that_an_earlier_peek_did_not_find_shows_a_clock_that_is_ahead(ahead: float) -> None:
    machine = Machine(ahead)
    searched_at = machine.at
    machine.at += 1.0
    machine.skew.at_most(machine.broker_time(), searched_at)
    machine.skew.at_least(machine.broker_time(), machine.at)
    assert machine.skew.seconds == pytest.approx(ahead, abs=1.0)
    assert "ahead of Service Bus's; synchronise it" in (machine.skew.sentence or "")


def test_the_lock_of_a_session_shows_a_clock_that_is_ahead_by_more_than_its_duration() -> None:
    machine = Machine(75.0)
    machine.skew.at_most(machine.broker_time(plus=60), machine.at)
    assert machine.skew.seconds == pytest.approx(15.0)


@pytest.mark.parametrize("behind", [75.0, 600.0])
def test_a_message_from_the_future_shows_a_clock_that_is_behind(
    behind: float, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(-behind)
    for _ in range(10):
        machine.skew.at_least(machine.broker_time(), machine.at)
        machine.at += 0.1
    assert machine.skew.seconds == pytest.approx(-behind, abs=1.0)
    assert machine.skew.sentence == (
        f"this machine's clock is at least {behind:.0f} s behind Service Bus's; synchronise it"
    )
    assert [record.getMessage() for record in caplog.records] == [f"{machine.skew.sentence}."]


@pytest.mark.parametrize("ahead", [-1.0, 0.0, 1.0])
def test_a_right_clock_has_no_skew_whatever_the_messages_waited(ahead: float) -> None:
    machine = Machine(ahead)
    machine.skew.at_least(machine.broker_time(plus=-86_400), machine.at)
    machine.skew.at_most(machine.broker_time(plus=300), machine.at)
    machine.skew.at_least(machine.broker_time(), machine.at)
    assert (machine.skew.seconds, machine.skew.sentence) == (0.0, None)


def test_a_clock_that_was_set_right_has_no_skew_any_more() -> None:
    machine = Machine(-600.0)
    machine.skew.at_least(machine.broker_time(), machine.at)
    machine.ahead = 0.0
    machine.skew.at_most(machine.broker_time(), machine.at)
    machine.skew.at_least(machine.broker_time(), machine.at)
    assert machine.skew.seconds == 0.0


def test_a_timeout_says_the_skew() -> None:
    machine = Machine(-75.0)
    machine.skew.at_least(machine.broker_time(), machine.at)
    assert "at least 75 s behind Service Bus's" in str(ResultTimeout("c", 5, skew=machine.skew.sentence))
