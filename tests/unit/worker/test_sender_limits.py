"""The limits on senders: calls, turns and lanes of one sender beside the others. Each test sets the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from flow_worker.flows.limits import CallLimiter, FlowLimits, SenderLimits, sender_limiter, status_poll_key
from flow_worker.flows.verdict import FlowHealth
from flow_worker.pipeline import journal_share
from flow_worker.pipeline.journal_share import JournalShare
from tests.support.pipeline import NOW, Clock

QUEUE = "requests"
WINDOW = 10.0
FLOW = FlowLimits(
    max_in_flight=100,
    max_calls=1000,
    window_seconds=WINDOW,
    breaker_failures=3,
    breaker_seconds=30.0,
    breaker_max_seconds=100.0,
)
SENDER = SenderLimits(max_in_flight=50, max_calls=500, window_seconds=WINDOW)


class Senders:
    """A limiter whose calls have a ticket each."""

    def __init__(
        self, flow: FlowLimits = FLOW, sender: SenderLimits = SENDER, lanes: int = 0, flows: str = "fgh"
    ) -> None:
        self.clock = Clock()
        of_queues = {QUEUE: lanes} if lanes else None
        self.limiter = CallLimiter(dict.fromkeys(flows, flow), self.clock, lanes=of_queues, senders=sender)
        self.tickets = 0

    def asks(self, sender: str, flow: str = "f", ticket: str = "") -> str | None:
        """Return the code of the limit that holds the sender's request back; None if its call began."""
        self.tickets += not ticket
        postponement = self.limiter.try_enter(flow, ticket or f"{sender}{self.tickets}", QUEUE, sender=sender)
        return None if postponement is None else postponement.code

    def floods(self, sender: str, flow: str = "f", requests: int = 300) -> int:
        """Return how many of the sender's requests began their calls."""
        return sum(self.asks(sender, flow) is None for _ in range(requests))

    def call(self, sender: str, flow: str = "f", seconds: float = 0.0) -> str | None:
        """Let the sender make one whole call."""
        self.tickets += 1
        ticket = f"{sender}{self.tickets}"
        if (code := self.asks(sender, flow, ticket)) is None:
            self.clock.now += timedelta(seconds=seconds)
            self.leave(sender, ticket, flow)
        return code

    def leave(self, sender: str, ticket: str, flow: str = "f", health: FlowHealth = FlowHealth.HEALTHY) -> None:
        self.limiter.leave(flow, ticket, QUEUE, health=health, until=None, sender=sender)

    def times_out(self, sender: str, flow: str = "f", person: str = "") -> None:
        """Let a call of the sender end without an answer, perhaps because of its input."""
        assert self.asks(sender, flow, ticket="slow") is None
        health = FlowHealth.RUN_FAILED
        self.limiter.leave(flow, "slow", QUEUE, health=health, until=None, sender=sender, person=person)


def test_a_sender_has_a_limited_number_of_calls_in_flight_over_all_flows() -> None:
    senders = Senders()
    assert senders.floods("mallory", "f", 40) + senders.floods("mallory", "g", 40) == 50
    assert senders.asks("mallory", "h") == "sender_busy"
    assert senders.asks("ada", "h") is None


def test_a_sender_has_a_limited_number_of_calls_in_a_window_over_all_flows() -> None:
    senders = Senders(sender=replace(SENDER, max_calls=3))
    assert [senders.call("mallory", flow) for flow in "fghf"] == [None, None, None, "sender_rate_limited"]
    assert senders.call("ada") is None
    senders.clock.now += timedelta(seconds=WINDOW)
    assert senders.call("mallory") is None


def test_a_sender_leaves_a_quarter_of_a_flows_places_to_the_others() -> None:
    senders = Senders(replace(FLOW, max_in_flight=8))
    assert senders.floods("mallory") == 6
    assert [senders.asks("ada"), senders.asks("bob")] == [None, None]


def test_a_sender_leaves_a_quarter_of_a_flows_calls_to_the_others() -> None:
    senders = Senders(replace(FLOW, max_calls=8))
    assert [senders.call("mallory") for _ in range(7)] == [None] * 6 + ["sender_rate_limited"]
    assert senders.call("ada") is None


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_only_sender_of_a_narrow_flow_has_all_of_its_places(size: int) -> None:
    senders = Senders(replace(FLOW, max_in_flight=size))
    assert senders.floods("ada") == size
    assert senders.asks("ada") == "flow_busy", "the limit that the settings name for the flow"


@pytest.mark.parametrize("size", [1, 4])
def test_a_backlog_of_one_sender_does_not_take_the_turn_of_another(size: int) -> None:
    """The backlog waits in the sender's own queue: the newcomer is next, or next but the sender's share."""
    senders = Senders(replace(FLOW, max_in_flight=size))
    began = [f"mallory{n}" for n in range(1, 1 + size - size // 4)]
    assert senders.floods("mallory", requests=500) == len(began)
    waiting = senders.asks("ada", ticket="ada")
    senders.clock.now += timedelta(seconds=2)
    if waiting is not None:
        senders.leave("mallory", began[0])
        assert senders.asks("mallory", ticket="mallory9") == "flow_busy", "an earlier turn is ada's"
        assert senders.asks("ada", ticket="ada") is None


def test_a_backlog_for_a_throttled_flow_returns_after_the_pause_and_keeps_no_turns_of_the_others() -> None:
    senders = Senders(replace(FLOW, max_in_flight=4))
    assert senders.asks("mallory", ticket="first") is None
    until = NOW + timedelta(seconds=100)
    senders.limiter.leave("f", "first", QUEUE, health=FlowHealth.THROTTLED, until=until, sender="mallory")
    for n in range(50):
        postponement = senders.limiter.try_enter("f", f"m{n}", QUEUE, sender="mallory")
        assert postponement is not None
        assert (postponement.code, postponement.until >= until) == ("flow_throttled", True)
    assert senders.limiter.state()["f"].waiting == 3, "the sender's share of the flow"
    assert senders.limiter.state()["f"].all_waiting == 50, "a metric says how many wait"


def test_a_status_poll_counts_for_its_flow_only() -> None:
    senders = Senders(sender=replace(SENDER, max_calls=1))
    assert senders.call("ada") is None
    assert senders.call("ada", status_poll_key("f")) is None
    assert senders.call("ada") == "sender_rate_limited"


# --- lanes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lanes", "of_flow", "of_sender"), [(4, 2, 3), (8, 4, 6), (16, 8, 12)])
def test_hanging_calls_of_one_sender_leave_lanes_to_its_other_flows_and_to_other_senders(
    lanes: int, of_flow: int, of_sender: int
) -> None:
    senders = Senders(lanes=lanes)
    assert senders.floods("mallory", "f") == of_flow
    assert senders.floods("mallory", "g") == of_sender - of_flow
    assert senders.floods("mallory", "h") == 0
    assert senders.asks("ada", "h") is None


@pytest.mark.parametrize("lanes", [2, 3])
def test_hanging_flows_of_one_sender_leave_a_lane_of_a_narrow_queue_to_others(lanes: int) -> None:
    """Such a queue has no reserve for senders, and one sender's failures open no circuit breaker."""
    senders = Senders(lanes=lanes)
    for flow in "fg":
        senders.times_out("mallory", flow)
    assert senders.floods("mallory", "f") + senders.floods("mallory", "g") == lanes - 1
    assert senders.asks("ada", "g") is None, "the failures of another sender cost nothing"


@pytest.mark.parametrize(("person", "code"), [("", "flow_circuit_open"), ("ada", None)])
def test_one_person_is_not_two_senders_to_the_circuit_breaker(person: str, code: str | None) -> None:
    senders = Senders()
    for sender in ("entra ada", "dataverse ada", "entra ada"):
        senders.times_out(sender, person=person)
    assert senders.asks("bob") == code


def test_the_only_flow_leaves_lanes_to_other_senders() -> None:
    senders = Senders(lanes=8, flows="f")
    assert senders.floods("mallory") == 6
    assert senders.floods("ada") == 1, "the last lane is for a sender without one"
    assert senders.floods("bob") == 1


def test_quick_calls_take_more_lanes_and_leave_the_last_one() -> None:
    senders = Senders(lanes=8, flows="f")
    senders.call("ada", seconds=0.02)
    assert senders.floods("ada") == 7
    assert senders.asks("bob") is None


def test_calls_that_begin_to_hang_are_quick_no_longer() -> None:
    senders = Senders(lanes=8, flows="f")
    senders.call("mallory", seconds=0.02)
    assert senders.floods("mallory", requests=2) == 2
    senders.clock.now += timedelta(seconds=2)
    assert senders.floods("mallory") == 4, "six lanes in all"


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_a_queue_with_few_lanes_has_no_reserve_for_senders(lanes: int) -> None:
    senders = Senders(lanes=lanes, flows="f")
    assert senders.floods("ada") >= lanes


# --- the journal -----------------------------------------------------------------------------------------------------


def test_the_journal_keeps_outputs_up_to_a_senders_share_that_drains_within_a_day() -> None:
    clock = Clock()
    share = JournalShare(1000, clock)
    assert [share.take("mallory", 600), share.take("mallory", 600), share.take("mallory", 400)] == [True, False, True]
    assert share.take("ada", 1000)
    clock.now += timedelta(hours=12)
    assert [share.take("mallory", 501), share.take("mallory", 500)] == [False, True]


def test_the_shares_of_many_senders_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_share, "MAX_SENDERS", 10)
    share = JournalShare(1000, Clock())
    for n in range(100):
        share.take(f"minted{n}", 1)
    assert len(share._senders) <= 10


def test_many_identities_do_not_empty_the_used_share_of_a_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_share, "MAX_SENDERS", 10)
    share = JournalShare(1000, Clock())
    assert share.take("mallory", 1000)
    for n in range(100):
        share.take(f"minted{n}", 1)
    assert not share.take("mallory", 1)


# --- memory ----------------------------------------------------------------------------------------------------------


@contextmanager
def capacity(monkeypatch: pytest.MonkeyPatch, limiters: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(sender_limiter, "MAX_LIMITERS", limiters)
        yield


def test_many_identities_take_bounded_memory_and_do_not_lift_the_limit_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    senders = Senders(sender=replace(SENDER, max_calls=5))
    with capacity(monkeypatch, 40):
        assert senders.floods("busy", "g", 2) == 2
        for _ in range(5):
            senders.call("mallory")
        for n in range(500):
            assert senders.call(f"minted{n}") is None
            assert senders.call("mallory") == "sender_rate_limited"
        assert len(senders.limiter._senders) <= 40
    senders.leave("busy", "busy1", "g")


def test_a_sender_that_was_forgotten_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    senders = Senders()
    with capacity(monkeypatch, 4):
        for sender in ("ada", "bob", "eve", "ada"):
            assert senders.call(sender) is None


def test_lanes_of_many_senders_leave_nothing_behind() -> None:
    senders = Senders(lanes=8)
    for n in range(100):
        senders.call(f"minted{n}")
    assert not senders.limiter._sender_lanes._held


# --- what a metric says about it -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow", "sender"),
    [
        (replace(FLOW, max_calls=4), SENDER),  # the sender's share of the flow's rate
        (replace(FLOW, max_in_flight=4), SENDER),
        (FLOW, replace(SENDER, max_in_flight=3)),  # the sender's own limits over all flows
        (FLOW, replace(SENDER, max_calls=3)),
    ],
)
def test_requests_beyond_the_limits_of_their_sender_count_as_waiting(flow: FlowLimits, sender: SenderLimits) -> None:
    senders = Senders(flow, sender)
    assert senders.floods("ada", requests=8) == 3
    waiting = {key: state.all_waiting for key, state in senders.limiter.state().items()}
    assert waiting == {key: 5 if key == "f" else 0 for key in waiting}
    senders.clock.now += timedelta(days=1)
    assert senders.limiter.state()["f"].all_waiting == 0, "they went to another worker"


def test_requests_that_went_to_another_worker_do_not_wait_here_for_ever() -> None:
    senders = Senders(replace(FLOW, max_calls=1))
    assert [senders.asks("", ticket=ticket) is None for ticket in "abc"] == [True, False, False]
    assert senders.limiter.state()["f"].waiting == 2
    senders.clock.now += timedelta(days=1)
    assert senders.limiter.state()["f"].waiting == 0
