"""The limits on calls: rate, concurrency, pauses, circuit breaker, turns and lanes. Each test sets the clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_worker.flows.limits import MAX_WAIT_SECONDS, CallLimiter, FlowLimits, Postponement
from flow_worker.flows.verdict import FlowHealth

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LIMITS = FlowLimits(
    max_in_flight=2,
    max_calls=1000,
    window_seconds=10.0,
    breaker_failures=3,
    breaker_seconds=30.0,
    breaker_max_seconds=100.0,
)
QUEUE = "requests"
OTHER_QUEUE = "continuations"
AT_ONCE = 1.0
"""A maximal wait in seconds that no test reaches: the place comes at once, or the wait is refused."""


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def advance_to(self, time: datetime) -> None:
        self.now = max(self.now, time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class DefaultedLimiter:
    """A limiter with defaults: the lanes of `QUEUE`, and the oldest call as the one that ends."""

    def __init__(self, limiter: CallLimiter) -> None:
        self._limiter = limiter
        self._begun: dict[str, list[str]] = defaultdict(list)
        self.state = limiter.state

    def try_enter(self, flow: str, ticket: str, queue: str = QUEUE, *, sender: str = "") -> Postponement | None:
        return self._recorded(flow, ticket, self._limiter.try_enter(flow, ticket, queue, sender=sender))

    async def enter(
        self, flow: str, ticket: str, queue: str = QUEUE, *, max_wait_seconds: float = MAX_WAIT_SECONDS
    ) -> Postponement | None:
        postponement = await self._limiter.enter(flow, ticket, queue, max_wait_seconds=max_wait_seconds)
        return self._recorded(flow, ticket, postponement)

    def leave(
        self,
        flow: str,
        *,
        health: FlowHealth,
        until: datetime | None,
        ticket: str | None = None,
        queue: str = QUEUE,
        sender: str = "",
    ) -> None:
        ticket = self._begun[flow][0] if ticket is None else ticket
        self._begun[flow].remove(ticket)
        self._limiter.leave(flow, ticket, queue, health=health, until=until, sender=sender)

    def _recorded(self, flow: str, ticket: str, postponement: Postponement | None) -> Postponement | None:
        if postponement is None:
            self._begun[flow].append(ticket)
        return postponement


def one_flow(clock: Clock, limits: FlowLimits = LIMITS) -> DefaultedLimiter:
    return DefaultedLimiter(CallLimiter({"f": limits}, clock))


def flows(clock: Clock, *names: str, lanes: int, max_in_flight: int = 100, others: int = 0) -> DefaultedLimiter:
    limits = dict.fromkeys(names, replace(LIMITS, max_in_flight=max_in_flight))
    return DefaultedLimiter(CallLimiter(limits, clock, lanes={QUEUE: lanes, OTHER_QUEUE: others}))


def call(
    limiter: DefaultedLimiter, health: FlowHealth, until: datetime | None = None, flow: str = "f", ticket: str = "call"
) -> None:
    """Make one call that ends at once."""
    assert limiter.try_enter(flow, ticket) is None
    limiter.leave(flow, health=health, until=until, ticket=ticket)


def refused(limiter: DefaultedLimiter, ticket: str, flow: str = "f") -> Postponement:
    postponement = limiter.try_enter(flow, ticket)
    assert postponement is not None
    return postponement


def fill(limiter: DefaultedLimiter, flow: str, limit: int = 100, queue: str = QUEUE) -> int:
    """Begin calls of the flow until one is postponed; return how many began."""
    tickets = (f"{queue}{flow}{n}" for n in range(limit))
    return sum(1 for _ in itertools.takewhile(lambda ticket: limiter.try_enter(flow, ticket, queue) is None, tickets))


# --- rate and concurrency limits -------------------------------------------------------------------------------------


def test_the_concurrency_limit_bounds_the_calls_in_flight(clock: Clock) -> None:
    limiter = one_flow(clock)
    assert fill(limiter, "f") == 2
    assert refused(limiter, "c").code == "flow_busy"
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    clock.advance(5)
    assert fill(limiter, "f") == 1


def test_the_rate_limit_bounds_the_calls_in_any_window(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_calls=2))
    call(limiter, FlowHealth.HEALTHY)
    clock.advance(9)
    call(limiter, FlowHealth.HEALTHY)
    postponement = refused(limiter, "late")
    assert postponement.code == "flow_rate_limited"
    assert postponement.until == START + timedelta(seconds=10)
    clock.advance(0.9)
    assert refused(limiter, "late").until == START + timedelta(seconds=10.4), "not before half a second"
    clock.advance(0.5)
    call(limiter, FlowHealth.HEALTHY, ticket="late")
    assert refused(limiter, "later").code == "flow_rate_limited"


def test_each_waiting_request_gets_its_own_free_place_in_the_window(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_calls=3))
    for _ in range(3):
        call(limiter, FlowHealth.HEALTHY)
        clock.advance(1)
    dues = [(refused(limiter, f"w{n}").until - START).total_seconds() for n in range(7)]
    assert dues == [10, 11, 12, 20, 21, 22, 30]


def test_requests_for_a_busy_flow_are_due_one_after_another(clock: Clock) -> None:
    limiter = one_flow(clock)
    for _ in range(2):
        limiter.try_enter("f", "call")
        clock.advance(4)
        limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    fill(limiter, "f")
    dues = [refused(limiter, f"w{n}").until - clock.now for n in range(40)]
    assert dues[1] - dues[0] == dues[2] - dues[1] == timedelta(seconds=2), "two places, each free every 4 s"
    assert all(timedelta(seconds=0.5) <= due <= timedelta(seconds=60) for due in dues)


def test_a_request_for_a_hanging_flow_returns_a_few_times_only(clock: Clock) -> None:
    limiter = one_flow(clock)
    call(limiter, FlowHealth.HEALTHY)
    fill(limiter, "f")
    trips = 0
    while clock.now < START + timedelta(seconds=130):
        trips += 1
        clock.advance_to(refused(limiter, "waits").until)
    assert trips <= 12


def test_an_unknown_flow_is_an_error(clock: Clock) -> None:
    with pytest.raises(KeyError):
        one_flow(clock).try_enter("other", "a")


# --- pauses ----------------------------------------------------------------------------------------------------------


def test_a_throttled_flow_is_called_again_after_retry_after(clock: Clock) -> None:
    limiter = one_flow(clock)
    until = clock.now + timedelta(seconds=40)
    call(limiter, FlowHealth.THROTTLED, until)
    postponement = refused(limiter, "a")
    assert (postponement.code, postponement.until) == ("flow_throttled", until)
    clock.advance(39.9)
    assert refused(limiter, "a").until == until
    clock.advance(0.1)
    assert limiter.try_enter("f", "a") is None


def test_after_a_pause_requests_return_at_different_times_and_call_one_by_one(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=50))
    call(limiter, FlowHealth.THROTTLED, clock.now + timedelta(seconds=10))
    dues = [refused(limiter, f"w{n}").until for n in range(20)]
    assert dues == sorted(set(dues))
    clock.advance(60)
    assert fill(limiter, "f") == 1
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    clock.advance(60)
    assert fill(limiter, "f") == 2
    assert refused(limiter, "w0").code == "flow_throttled"


def test_pauses_after_429s_without_a_time_double_until_a_success(clock: Clock) -> None:
    limiter = one_flow(clock)

    def pause() -> float:
        call(limiter, FlowHealth.THROTTLED)
        postponement = refused(limiter, "call")
        seconds = (postponement.until - clock.now).total_seconds()
        clock.advance_to(postponement.until)
        return seconds

    assert 4 <= pause() <= 6
    assert 8 <= pause() <= 12
    assert [240 <= pause() <= 360 for _ in range(8)][-1]
    call(limiter, FlowHealth.HEALTHY)
    assert 4 <= pause() <= 6


def test_simultaneous_429s_cause_one_pause(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=10))
    fill(limiter, "f", limit=10)
    clock.advance(1)
    for _ in range(10):
        limiter.leave("f", health=FlowHealth.THROTTLED, until=None)
    assert refused(limiter, "a").until <= clock.now + timedelta(seconds=6)


def test_the_later_of_two_retry_after_times_counts(clock: Clock) -> None:
    limiter = one_flow(clock)
    fill(limiter, "f")
    for seconds in (40, 10):
        limiter.leave("f", health=FlowHealth.THROTTLED, until=clock.now + timedelta(seconds=seconds))
    clock.advance(39)
    assert refused(limiter, "a").code == "flow_throttled"


def test_a_429_whose_retry_after_is_past_pauses_too(clock: Clock) -> None:
    limiter = one_flow(clock)
    call(limiter, FlowHealth.THROTTLED, clock.now)
    assert refused(limiter, "a").code == "flow_throttled"


# --- breaker ---------------------------------------------------------------------------------------------------------


def broken(clock: Clock) -> DefaultedLimiter:
    limiter = one_flow(clock)
    for _ in range(3):
        call(limiter, FlowHealth.UNHEALTHY)
    return limiter


def test_failures_in_a_row_open_the_breaker(clock: Clock) -> None:
    postponement = refused(broken(clock), "a")
    assert (postponement.code, postponement.until) == ("flow_circuit_open", clock.now + timedelta(seconds=30))


def test_failures_that_are_not_in_a_row_do_not_open_the_breaker(clock: Clock) -> None:
    limiter = one_flow(clock)
    for health in (
        FlowHealth.UNHEALTHY,
        FlowHealth.UNHEALTHY,
        FlowHealth.HEALTHY,
        FlowHealth.UNHEALTHY,
        FlowHealth.NEUTRAL,
        FlowHealth.UNHEALTHY,
    ):
        call(limiter, health)
    assert limiter.try_enter("f", "a") is None


def test_a_half_open_breaker_lets_one_call_through_and_opens_for_longer_if_it_fails(clock: Clock) -> None:
    limiter = broken(clock)
    clock.advance(30)
    for seconds in (60, 100, 100):
        assert limiter.try_enter("f", "probe") is None
        assert limiter.try_enter("f", "absent") is not None
        limiter.leave("f", health=FlowHealth.UNHEALTHY, until=None, ticket="probe")
        clock.advance(seconds - 0.1)
        assert refused(limiter, "probe").code == "flow_circuit_open"
        clock.advance(4)  # the other ticket does not return


def test_a_success_closes_a_half_open_breaker(clock: Clock) -> None:
    limiter = broken(clock)
    clock.advance(30)
    call(limiter, FlowHealth.HEALTHY)
    assert fill(limiter, "f") == 2
    limiter.leave("f", health=FlowHealth.UNHEALTHY, until=None)
    assert fill(limiter, "f") == 1, "one failure must not open it again"


def test_a_breaker_that_was_closed_opens_for_the_first_duration_again(clock: Clock) -> None:
    limiter = broken(clock)
    clock.advance(30)
    for health in (FlowHealth.HEALTHY, FlowHealth.UNHEALTHY, FlowHealth.UNHEALTHY, FlowHealth.UNHEALTHY):
        call(limiter, health)
    assert refused(limiter, "a").until == clock.now + timedelta(seconds=30)


def test_a_cancelled_probe_makes_room_for_the_next_one(clock: Clock) -> None:
    limiter = broken(clock)
    clock.advance(30)
    call(limiter, FlowHealth.NEUTRAL)
    assert limiter.try_enter("f", "next") is None


def test_failures_of_calls_begun_before_the_breaker_opened_do_not_open_it_again(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=10))
    fill(limiter, "f")
    for n in range(9):
        limiter.leave("f", health=FlowHealth.UNHEALTHY, until=None, ticket=f"{QUEUE}f{n}")
    clock.advance(30)
    assert limiter.try_enter("f", "probe") is None, "a call that began before the opening must not count as the probe"
    limiter.leave("f", health=FlowHealth.UNHEALTHY, until=None, ticket=f"{QUEUE}f9")
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None, ticket="probe")
    assert limiter.try_enter("f", "a") is None


def runs_failed(limiter: DefaultedLimiter, *senders: str) -> DefaultedLimiter:
    """Let calls end without an answer, for which the input may be the reason."""
    for sender in senders:
        assert limiter.try_enter("f", "call", sender=sender) is None
        limiter.leave("f", health=FlowHealth.RUN_FAILED, until=None, ticket="call", sender=sender)
    return limiter


def test_one_senders_failed_runs_do_not_open_the_breaker_for_the_others(clock: Clock) -> None:
    limiter = runs_failed(one_flow(clock), *["mallory"] * 6)
    assert limiter.state()["f"].failures_in_a_row == 0
    assert fill(limiter, "f") == 2


def test_failed_runs_of_two_senders_open_the_breaker(clock: Clock) -> None:
    assert refused(runs_failed(one_flow(clock), "ada", "bob", "ada"), "a").code == "flow_circuit_open"


def test_failed_runs_before_a_success_do_not_count(clock: Clock) -> None:
    limiter = runs_failed(one_flow(clock), *["mallory"] * 6)
    call(limiter, FlowHealth.HEALTHY)
    assert runs_failed(limiter, "ada").try_enter("f", "a") is None


def test_one_senders_failed_runs_do_not_keep_a_half_open_breaker_open(clock: Clock) -> None:
    limiter = broken(clock)
    clock.advance(30)
    runs_failed(limiter, "mallory")
    assert limiter.try_enter("f", "probe") is None
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None, ticket="probe")
    assert fill(limiter, "f") == 2


def test_calls_that_time_out_while_others_are_answered_count_as_failed_runs(clock: Clock) -> None:
    """An input that makes a flow run too long must not stop the flow for the others."""
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=10))
    slow = [f"slow{n}" for n in range(6)]
    for ticket in slow:
        assert limiter.try_enter("f", ticket, sender="mallory") is None
    clock.advance(60)
    call(limiter, FlowHealth.HEALTHY)
    clock.advance(70)
    for ticket in slow:
        limiter.leave("f", health=FlowHealth.UNHEALTHY, until=None, ticket=ticket, sender="mallory")
    assert limiter.try_enter("f", "a") is None


def test_a_senders_failed_runs_leave_the_flow_its_lane_of_the_reserve(clock: Clock) -> None:
    limiter = flows(clock, "f", "g", lanes=12)
    runs_failed(limiter, "mallory")
    assert fill(limiter, "g") == 9
    assert limiter.try_enter("f", "a") is None


# --- turns -----------------------------------------------------------------------------------------------------------


def waiting_for_one_place(clock: Clock) -> DefaultedLimiter:
    """Limit the flow to one call; let the ticket "first" be postponed, and the call before it end."""
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=1))
    assert limiter.try_enter("f", "call") is None
    due = refused(limiter, "first").until
    clock.advance(AT_ONCE / 4)
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    clock.advance_to(due)
    return limiter


def test_a_newcomer_does_not_overtake_a_due_request(clock: Clock) -> None:
    limiter = waiting_for_one_place(clock)
    assert refused(limiter, "newcomer").code == "flow_busy"
    assert limiter.try_enter("f", "first") is None


def test_a_request_that_has_called_keeps_no_place(clock: Clock) -> None:
    limiter = waiting_for_one_place(clock)
    call(limiter, FlowHealth.HEALTHY, ticket="first")
    assert limiter.try_enter("f", "newcomer") is None


def test_a_late_request_goes_before_those_due_later(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=1))
    assert limiter.try_enter("f", "call") is None
    due = refused(limiter, "late").until
    assert refused(limiter, "later").until == due + timedelta(seconds=1)
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    clock.advance_to(due + timedelta(seconds=3.1))
    assert limiter.try_enter("f", "late") is None


def test_a_late_request_does_not_displace_those_due_at_about_the_same_time(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=4))
    fill(limiter, "f", limit=4)
    refused(limiter, "other")
    clock.advance_to(refused(limiter, "late").until + timedelta(seconds=1))
    refused(limiter, "late")
    assert limiter.state()["f"].waiting == 2


def test_a_request_that_returned_in_vain_keeps_its_turn(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=1))
    assert limiter.try_enter("f", "call") is None
    clock.advance_to(refused(limiter, "first").until)
    second = refused(limiter, "second").until
    refused(limiter, "first")
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    clock.advance_to(min(second, refused(limiter, "second").until))
    refused(limiter, "second")
    assert limiter.try_enter("f", "first") is None


def test_a_ticket_that_never_returns_is_forgotten(clock: Clock) -> None:
    limiter = waiting_for_one_place(clock)
    clock.advance(3.1)
    assert limiter.try_enter("f", "newcomer") is None
    assert limiter.state()["f"].waiting == 0


def test_a_ticket_overtaken_by_later_ones_is_forgotten(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=1))
    assert limiter.try_enter("f", "call") is None
    refused(limiter, "absent")
    later = refused(limiter, "here").until
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    clock.advance_to(later)
    assert limiter.try_enter("f", "here") is None


def test_absent_tickets_keep_at_most_a_quarter_of_the_places(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=8))
    fill(limiter, "f", limit=8)
    last = max(refused(limiter, f"w{n}").until for n in range(10))
    for _ in range(8):
        limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    clock.advance_to(last)
    assert fill(limiter, "f") == 6


def test_the_waiting_queue_is_bounded(clock: Clock) -> None:
    limiter = one_flow(clock, replace(LIMITS, max_in_flight=1))
    assert limiter.try_enter("f", "call") is None
    for n in range(10_050):
        refused(limiter, f"w{n}")
    assert limiter.state()["f"].waiting == 10_000


# --- lanes -----------------------------------------------------------------------------------------------------------


def test_one_flow_leaves_lanes_for_the_others(clock: Clock) -> None:
    limiter = flows(clock, "f", "g", lanes=12)
    assert fill(limiter, "f") == 9
    assert refused(limiter, "late").code == "flow_busy"
    assert limiter.try_enter("g", "a") is None


def test_the_only_flow_may_hold_all_lanes(clock: Clock) -> None:
    assert fill(flows(clock, "f", lanes=12), "f", limit=12) == 12


@pytest.mark.parametrize("lanes", [2, 3, 4, 12])
def test_a_hanging_flow_leaves_a_lane_for_the_others(clock: Clock, lanes: int) -> None:
    limiter = flows(clock, "f", "g", lanes=lanes)
    assert fill(limiter, "f") < lanes
    assert limiter.try_enter("g", "a") is None


def test_a_flow_leaves_lanes_of_each_queue_for_the_others(clock: Clock) -> None:
    """A message waits for a lane of its queue; a free lane of another queue does not help."""
    limiter = flows(clock, "f", "g", lanes=8, others=4)
    assert (fill(limiter, "f"), fill(limiter, "f", queue=OTHER_QUEUE)) == (6, 3)
    assert limiter.try_enter("g", "a") is None
    assert limiter.try_enter("g", "b", OTHER_QUEUE) is None
    for _ in range(6):
        limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    assert fill(limiter, "g") == 5


def test_the_only_lane_of_a_queue_is_open_to_every_flow(clock: Clock) -> None:
    limiter = flows(clock, "f", "g", lanes=1)
    call(limiter, FlowHealth.UNHEALTHY)
    call(limiter, FlowHealth.HEALTHY)
    call(limiter, FlowHealth.HEALTHY, flow="g")


def test_two_hanging_flows_leave_a_lane_for_the_others(clock: Clock) -> None:
    limiter = flows(clock, "f", "g", "h", lanes=12)
    assert fill(limiter, "f") + fill(limiter, "g") == 11
    assert limiter.try_enter("h", "a") is None


def test_slow_flows_together_hold_little_of_the_reserve(clock: Clock) -> None:
    limiter = flows(clock, "f", "g", "h", lanes=12)
    assert fill(limiter, "f") == 9
    assert limiter.try_enter("g", "hangs") is None
    clock.advance(6)
    assert refused(limiter, "more", "g").code == "flow_busy"
    assert fill(limiter, "h") == 1, "one lane must be left for a flow without one"


def test_a_slow_flow_takes_one_lane_of_the_reserve(clock: Clock) -> None:
    limiter = flows(clock, "f", "g", lanes=12)
    assert limiter.try_enter("g", "slow") is None
    clock.advance(6)
    limiter.leave("g", health=FlowHealth.HEALTHY, until=None)
    assert fill(limiter, "f") == 9
    assert fill(limiter, "g") == 1


def test_a_failing_flow_takes_no_lane_of_the_reserve(clock: Clock) -> None:
    limiter = flows(clock, "f", "g", lanes=12)
    call(limiter, FlowHealth.UNHEALTHY, flow="g")
    fill(limiter, "f")
    assert refused(limiter, "a", "g").code == "flow_busy"


def test_a_throttled_and_a_failing_flow_do_not_slow_another(clock: Clock) -> None:
    limiter = flows(clock, "f", "g", "h", lanes=12)
    call(limiter, FlowHealth.THROTTLED, clock.now + timedelta(hours=1), flow="f")
    for _ in range(3):
        call(limiter, FlowHealth.UNHEALTHY, flow="g")
    assert fill(limiter, "h") == 9


# --- waiting in a lane -----------------------------------------------------------------------------------------------


def after_a_quick_call(limiter: DefaultedLimiter, clock: Clock, flow: str = "f") -> DefaultedLimiter:
    """Make one call that takes a quarter of a second."""
    assert limiter.try_enter(flow, "earlier") is None
    clock.advance(AT_ONCE / 4)
    limiter.leave(flow, health=FlowHealth.HEALTHY, until=None)
    return limiter


async def start_waiting(
    limiter: DefaultedLimiter, *tickets: str, flow: str = "f"
) -> list[asyncio.Task[Postponement | None]]:
    """Start requests for a place, and let each begin its wait."""
    tasks = [asyncio.create_task(limiter.enter(flow, each, max_wait_seconds=AT_ONCE)) for each in tickets]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_the_backlog_of_a_quick_flow_waits_in_its_lane(clock: Clock) -> None:
    limiter = after_a_quick_call(flows(clock, "f", "g", lanes=4), clock)
    fill(limiter, "f")
    first, second = await start_waiting(limiter, "a", "b")
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    assert await first is None
    assert not second.done()
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    assert await second is None
    assert limiter.state()["f"].in_flight == 3


async def test_a_wait_ends_after_its_maximum(clock: Clock) -> None:
    limiter = after_a_quick_call(one_flow(clock), clock)
    fill(limiter, "f")
    postponement = await limiter.enter("f", "a", max_wait_seconds=0.02)
    assert postponement is not None
    assert postponement.code == "flow_busy"
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    assert limiter.state()["f"].in_flight == 1, "a request that left must get no place"


async def test_no_request_waits_for_a_hanging_flow_even_if_it_was_quick(clock: Clock) -> None:
    limiter = one_flow(clock)
    after_a_quick_call(limiter, clock)
    fill(limiter, "f")
    clock.advance(AT_ONCE + 0.01)
    [task] = await start_waiting(limiter, "a")
    assert task.done()


async def test_no_request_waits_for_a_flow_of_unknown_duration(clock: Clock) -> None:
    limiter = one_flow(clock)
    fill(limiter, "f")
    [task] = await start_waiting(limiter, "a")
    assert task.done()


async def test_no_request_waits_longer_than_a_few_calls_last(clock: Clock) -> None:
    limiter = one_flow(clock)
    assert limiter.try_enter("f", "call") is None
    clock.advance(0.1)
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    fill(limiter, "f")
    clock.advance(0.5)  # so long that at a tenth of a second each all calls should have ended
    [task] = await start_waiting(limiter, "a")
    assert task.done()


async def test_no_request_waits_for_a_slow_flow(clock: Clock) -> None:
    limiter = one_flow(clock)
    assert limiter.try_enter("f", "call") is None
    clock.advance(2)
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    fill(limiter, "f")
    [task] = await start_waiting(limiter, "a")
    assert task.done()


async def test_no_more_requests_wait_than_can_expect_a_place(clock: Clock) -> None:
    limiter = one_flow(clock)
    assert limiter.try_enter("f", "call") is None
    clock.advance(AT_ONCE / 2)
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    fill(limiter, "f")
    tasks = await start_waiting(limiter, *"abcdef")
    assert [task.done() for task in tasks] == [False] * 4 + [True] * 2, "two places, each free twice in that time"
    await cancel(*tasks)


async def test_a_pause_ends_all_waits(clock: Clock) -> None:
    limiter = after_a_quick_call(one_flow(clock), clock)
    fill(limiter, "f")
    tasks = await start_waiting(limiter, "a", "b")
    limiter.leave("f", health=FlowHealth.THROTTLED, until=clock.now + timedelta(seconds=9))
    tasks += await start_waiting(limiter, "c")
    assert all(task.done() for task in tasks)
    assert [outcome.code for outcome in await asyncio.gather(*tasks) if outcome] == ["flow_throttled"] * 3


async def test_a_request_that_waits_in_a_lane_does_not_overtake_a_due_one(clock: Clock) -> None:
    limiter = waiting_for_one_place(clock)
    assert limiter.try_enter("f", "first") is None
    due = refused(limiter, "returns").until
    clock.advance_to(due)
    newcomer, returned = await start_waiting(limiter, "newcomer", "returns")
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    assert await returned is None
    assert not newcomer.done()
    await cancel(newcomer)


async def test_a_cancelled_wait_holds_no_place(clock: Clock) -> None:
    limiter = after_a_quick_call(one_flow(clock, replace(LIMITS, max_in_flight=1)), clock)
    fill(limiter, "f")
    waiting, given = await start_waiting(limiter, "a", "b")
    await cancel(waiting)
    limiter.leave("f", health=FlowHealth.HEALTHY, until=None)
    await cancel(given)  # its place was granted, but its task has not run since
    assert limiter.state()["f"].in_flight == 0


async def cancel(*tasks: asyncio.Task[Postponement | None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- simulation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """The end of a call."""

    seconds: float
    health: FlowHealth
    retry_after: float | None = None


@dataclass
class Request:
    ticket: str
    goes_to_replica: bool
    """Once postponed, the request is received by another replica."""
    owed_since: datetime | None = None
    called: bool = False
    trips: int = 0


HEALTHY = Answered(0.2, FlowHealth.HEALTHY)


@dataclass
class Simulation:
    """One flow and its requests, in simulated time."""

    limits: FlowLimits
    answers: list[Answered]
    late: list[float]
    """The delays, in turn, with which requests return."""
    clock: Clock = field(default_factory=Clock)
    requests: list[Request] = field(default_factory=list)
    began: dict[str, datetime] = field(default_factory=dict)
    calls: list[datetime] = field(default_factory=list)
    opened: datetime | None = None
    """The time since which the breaker is open or half-open."""

    def __post_init__(self) -> None:
        self.limiter = one_flow(self.clock, self.limits)
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._late = itertools.cycle(self.late)

    def arrive(self, seconds: float, *, goes_to_replica: bool) -> None:
        request = Request(f"r{len(self.requests)}", goes_to_replica)
        self.requests.append(request)
        self._at(START + timedelta(seconds=seconds), lambda: self._ask(request))

    def run(self) -> None:
        while self._events:
            time, _, happen = heapq.heappop(self._events)
            self.clock.advance_to(time)
            happen()

    def _at(self, time: datetime, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), happen))

    def _ask(self, request: Request) -> None:
        postponement = self.limiter.try_enter("f", request.ticket)
        if postponement is None:
            self._call(request)
            return
        assert postponement.until > self.clock.now
        request.trips += 1
        assert request.trips < 200, "starved"
        if not request.goes_to_replica:
            request.owed_since = request.owed_since or postponement.until
            self._at(postponement.until + timedelta(seconds=next(self._late)), lambda: self._ask(request))

    def _call(self, request: Request) -> None:
        now = self.clock.now
        request.called = True
        self.began[request.ticket] = now
        self.calls.append(now)
        self._hold_bounds(now)
        self._hold_order(request, now)
        answer = self.answers.pop(0) if self.answers else HEALTHY
        self._at(now + timedelta(seconds=answer.seconds), lambda: self._end(request, answer))

    def _hold_bounds(self, now: datetime) -> None:
        assert len(self.began) <= self.limits.max_in_flight
        window = timedelta(seconds=self.limits.window_seconds)
        assert sum(time > now - window for time in self.calls) <= self.limits.max_calls
        if self.opened is not None:
            assert sum(time > self.opened for time in self.began.values()) == 1, "one probe"

    def _hold_order(self, request: Request, now: datetime) -> None:
        """Check that a call leaves places for requests with an earlier turn, up to a quarter of all places."""
        turn = request.owed_since or now
        first = sum(
            1 for each in self.requests if not each.called and each.owed_since is not None and each.owed_since < turn
        )
        places = self.limits.max_in_flight
        assert places - len(self.began) >= min(first, (places + 3) // 4)

    def _end(self, request: Request, answer: Answered) -> None:
        now = self.clock.now
        began = self.began.pop(request.ticket)
        until = None if answer.retry_after is None else now + timedelta(seconds=answer.retry_after)
        self.limiter.leave("f", health=answer.health, until=until, ticket=request.ticket)
        closed = self.limiter.state()["f"].closed
        if closed is not None and closed.code == "flow_circuit_open":
            self.opened = self.opened if self.opened and began < self.opened else now
        elif answer.health is FlowHealth.HEALTHY and self.opened and began > self.opened:
            self.opened = None


ANSWERS = st.one_of(
    st.builds(
        Answered, st.floats(0.01, 20), st.sampled_from([FlowHealth.HEALTHY, FlowHealth.UNHEALTHY, FlowHealth.NEUTRAL])
    ),
    st.builds(Answered, st.floats(0.01, 20), st.just(FlowHealth.UNHEALTHY)),
    st.builds(Answered, st.floats(0.01, 2), st.just(FlowHealth.THROTTLED), st.none() | st.floats(0, 100)),
)
SOME_LIMITS = st.builds(
    FlowLimits,
    max_in_flight=st.integers(1, 9),
    max_calls=st.integers(1, 12),
    window_seconds=st.floats(0.5, 30),
    breaker_failures=st.integers(1, 4),
    breaker_seconds=st.floats(0.5, 20),
    breaker_max_seconds=st.floats(20, 60),
)


@settings(max_examples=300)
@given(
    limits=SOME_LIMITS,
    answers=st.lists(ANSWERS, max_size=30),
    arrivals=st.lists(st.tuples(st.floats(0, 60), st.sampled_from([False, False, False, True])), max_size=60),
    late=st.lists(st.floats(0, 0.4), min_size=1, max_size=5),
)
def test_limits_and_turns_hold_and_no_request_starves(
    limits: FlowLimits, answers: list[Answered], arrivals: list[tuple[float, bool]], late: list[float]
) -> None:
    simulation = Simulation(limits, answers, late)
    for seconds, goes_to_replica in arrivals:
        simulation.arrive(seconds, goes_to_replica=goes_to_replica)
    simulation.run()
    assert all(request.called or request.goes_to_replica for request in simulation.requests)
