"""The broker's clock is inferred from its times: never worse than this machine's clock, and immune to its jumps."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_contracts.servicebus.locks import LockTimes
from flow_worker.broker_clock import BrokerClock

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
SLACK = 2.0
"""Seconds: the tolerance for jitter, and the evidence's decay in the minutes that these tests simulate."""


@dataclass
class World:
    """A broker with a right clock, and a machine whose clock is off by `skew` seconds."""

    skew: float
    lock: float = 60.0
    passed: float = 0.0
    best: float = float("inf")
    """The least age of a proof: a message's wait, up to what its lock proves, and its way to the worker."""
    clock: BrokerClock = field(init=False)
    locks: LockTimes = field(init=False)

    def __post_init__(self) -> None:
        self.clock = BrokerClock(wall=self.wall, monotonic=self.monotonic)
        self.locks = LockTimes(self.clock, wall=self.wall, monotonic=self.monotonic)

    @property
    def true(self) -> float:
        return START + self.passed

    def wall(self) -> float:
        return self.true + self.skew

    def monotonic(self) -> float:
        return 7.0 + self.passed

    def deliver(self, *, waited: float = 0.0, way: float = 0.05) -> float:
        """Deliver a message that waited in the queue; return when its lock seems to end, from now on."""
        began, enqueued, until = self.monotonic(), self.true - waited, self.true + self.lock
        self.passed += way
        self.best = min(self.best, waited + way)
        return self.locks.delivered(_time(enqueued), _time(until), began) - self.monotonic()

    def renew(self, way: float = 0.05) -> float:
        asked, until = self.monotonic(), self.true + self.lock
        self.passed += way
        return self.locks.renewed(_time(until), asked) - self.monotonic()

    @property
    def error(self) -> float:
        """The seconds by which the inferred time is ahead of the true one."""
        return self.clock.now().timestamp() - self.true


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


steps = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "renew"]),
        st.floats(0, 5_000),  # the wait in the queue
        st.floats(0.001, 30),  # the way through the network
        st.floats(0, 30),  # the pause before
    ),
    max_size=20,
)


@given(st.floats(-100_000, 100_000), st.sampled_from([5.0, 30.0, 60.0, 300.0]), steps)
def test_the_inferred_time_is_never_farther_from_the_truth_than_the_evidence_and_the_machines_clock(
    skew: float, lock: float, moves: list[tuple[str, float, float, float]]
) -> None:
    world = World(skew, lock)
    for move, waited, way, pause in moves:
        world.passed += pause
        world.deliver(waited=waited, way=way) if move == "deliver" else world.renew(way)
        if skew >= 0:  # never ahead of the machine's clock, and behind the truth only once that clock is disproven
            assert min(-world.best, -300 - 30) - SLACK <= world.error <= skew + SLACK
        else:
            assert skew - SLACK <= world.error <= SLACK
        if abs(skew) <= 0.5:
            assert abs(world.error) <= 0.5 + SLACK


@given(st.one_of(st.floats(400, 1e6), st.floats(-1e6, -1)), st.sampled_from([5.0, 60.0, 300.0]))
def test_a_fresh_message_and_a_renewal_correct_any_disproven_clock(skew: float, lock: float) -> None:
    world = World(skew, lock)
    world.deliver()
    world.renew()
    assert abs(world.error) <= 1.0
    assert world.clock.offset_seconds == pytest.approx(skew, abs=1.0)


@given(st.lists(st.floats(0, 100_000), min_size=1, max_size=20), st.sampled_from([5.0, 300.0]))
def test_a_backlog_makes_no_right_clock_wrong(waits: list[float], lock: float) -> None:
    world = World(0.0, lock)
    for waited in waits:
        world.deliver(waited=waited)
        world.renew()
        assert abs(world.error) <= 0.1


@given(st.floats(0, 290), st.lists(st.floats(0, 1_000), max_size=5))
def test_the_time_that_the_broker_has_reached_is_never_ahead_though_the_lead_cannot_be_proven(
    skew: float, waits: list[float]
) -> None:
    world = World(skew, lock=300.0)
    for waited in waits:
        world.deliver(waited=waited)
        world.renew()
    world.deliver()
    assert -1.0 <= world.clock.reached().timestamp() - world.true <= 0.0


@pytest.mark.parametrize("jump", [600.0, -600.0, 86_400.0])
def test_a_jump_of_the_machines_clock_has_no_effect(jump: float) -> None:
    world = World(0.0)
    world.deliver()
    world.skew = jump
    assert world.error == pytest.approx(0.0, abs=0.1)
    assert world.clock.offset_seconds == pytest.approx(jump, abs=0.1)


def test_a_machines_clock_that_is_set_right_counts_again() -> None:
    world = World(600.0)
    world.deliver()
    world.renew()
    world.skew = 0.0
    assert world.error == pytest.approx(0.0, abs=0.1)


def test_newer_evidence_replaces_older_evidence_that_it_contradicts() -> None:
    world = World(0.0)
    world.deliver()
    world.renew()
    # The machine sleeps: its monotonic clock stands still while the broker's clock goes on.
    woken = _time(world.true + 3_600)
    world.clock.at_least(woken, world.monotonic())
    assert world.clock.now() == woken


def test_an_offset_is_logged_once_and_again_when_it_has_changed(caplog: pytest.LogCaptureFixture) -> None:
    world = World(600.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            world.deliver()
            world.renew()
    assert [record.getMessage() for record in caplog.records] == [
        "This machine's clock is 600 s ahead of the broker's; the worker corrects for it. Synchronise the clock."
    ]
    world.skew = 0.0
    world.deliver()
    assert caplog.records[-1].getMessage() == "This machine's clock agrees with the broker's again."


@pytest.mark.parametrize("lock", [5.0, 30.0, 60.0, 300.0])
@pytest.mark.parametrize("skew", [0.0, 3.0, -3.0, 20.0, -20.0, 600.0, -600.0, 86_400.0, -86_400.0])
@pytest.mark.parametrize("waited", [0.0, 250.0, 10_000.0])
def test_the_estimated_end_of_a_lock_lies_at_or_before_its_end(lock: float, skew: float, waited: float) -> None:
    world = World(skew, lock)
    for _ in range(3):
        left = world.deliver(waited=waited)
        assert left <= lock * 1.1
        left = world.renew()
        assert 0.5 <= left <= lock * 1.1, "a lane renews at a third of this time"


@given(
    st.sampled_from([0.0, 600.0, -600.0]),
    st.sampled_from([(5.0, 60.0), (5.0, 300.0), (60.0, 120.0)]),
    st.lists(st.tuples(st.booleans(), st.floats(0, 1_000)), min_size=1, max_size=5),
)
def test_a_longer_lock_duration_proves_no_time_that_has_not_come(
    skew: float, locks: tuple[float, float], steps: list[tuple[bool, float]]
) -> None:
    world = World(skew, locks[0])
    for _ in range(3):
        world.deliver()
        world.renew()
    world.lock = locks[1]  # a person changes the queue, or creates it again
    for is_delivery, waited in steps:
        world.deliver(waited=waited) if is_delivery else world.renew()
        assert world.clock.reached().timestamp() <= world.true + SLACK
        assert abs(world.error) <= SLACK
    world.renew()
    world.deliver()
    if skew == 0.0:
        assert world.deliver() == pytest.approx(locks[1], abs=1)


def test_a_right_clock_needs_few_renewals_once_a_message_did_not_wait() -> None:
    world = World(0.0, 300.0)
    assert world.deliver() == pytest.approx(300, abs=1)
