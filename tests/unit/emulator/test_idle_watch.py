"""Idle peers and idle links, with a clock that the test sets."""

from __future__ import annotations

import pytest

from servicebus_emulator.amqp import Event, Link
from servicebus_emulator.amqp.performatives import Accepted, Detach, Disposition, Flow, Transfer
from servicebus_emulator.transport.connection_rules import ConnectionRules
from servicebus_emulator.transport.idle_watch import IdleWatch
from tests.unit.emulator.amqp.peer import Peer

RULES = ConnectionRules()


class Watched:
    """A connection under watch, with one check a second."""

    def __init__(self) -> None:
        self.peer = Peer()
        self.now = 0.0
        self.watch = IdleWatch(self.peer.connection, RULES, self.now)

    def events(self, events: list[Event]) -> None:
        """Pass events of the peer to the watch."""
        self.watch.bytes_received()
        for event in events:
            self.watch.event_received(event)

    def passes(self, seconds: int, *, heartbeats: bool = True) -> tuple[list[str], str | None]:
        """Let seconds pass; return the names of idle links, and the condition that closes the connection, if any."""
        idle: list[str] = []
        for _ in range(seconds):
            self.now += 1
            if heartbeats:
                self.watch.bytes_received()
            for link in self.watch.idle_links(self.now):
                link.detach()
                idle.append(link.name)
            error = self.watch.close_reason(self.now)
            if error is not None:
                return idle, error.condition
        return idle, None


@pytest.fixture
def watched() -> Watched:
    return Watched()


def linked(watched: Watched, *, receives: bool) -> Link:
    watched.peer.open().begin()
    link = watched.peer.link(receives=receives)
    assert watched.passes(1) == ([], None)
    return link


def test_a_connection_without_an_open_is_closed_after_a_minute(watched: Watched) -> None:
    assert watched.passes(59) == ([], None)
    assert watched.passes(1) == ([], "amqp:connection:forced")


def test_an_open_connection_without_a_link_is_closed_after_a_minute(watched: Watched) -> None:
    watched.peer.open().begin()
    assert watched.passes(59) == ([], None)
    assert watched.passes(1) == ([], "amqp:connection:forced")


def test_a_connection_that_detached_its_links_is_closed_after_five_minutes(watched: Watched) -> None:
    linked(watched, receives=True)
    watched.events(watched.peer.send(Detach(0, closed=True)))
    assert watched.passes(300) == ([], None)
    assert watched.passes(1) == ([], "amqp:connection:forced")


def test_a_silent_peer_is_closed_after_the_idle_timeout_and_a_heartbeat_restarts_it(watched: Watched) -> None:
    linked(watched, receives=True)
    assert watched.passes(239, heartbeats=False) == ([], None)
    assert watched.passes(1) == ([], None)
    assert watched.passes(239, heartbeats=False) == ([], None)
    assert watched.passes(1, heartbeats=False) == ([], "amqp:resource-limit-exceeded")


@pytest.mark.parametrize("receives", [True, False])
def test_an_unused_link_is_idle_after_ten_minutes(watched: Watched, receives: bool) -> None:
    linked(watched, receives=receives)
    assert watched.passes(599) == ([], None)
    assert watched.passes(1) == (["link"], None)
    assert watched.passes(299) == ([], None)
    assert watched.passes(1) == ([], "amqp:connection:forced"), "no links are left"


def test_flow_dispositions_and_messages_to_the_peer_keep_a_link_in_use(watched: Watched) -> None:
    link = linked(watched, receives=True)
    watched.passes(500)
    watched.events(watched.peer.send(Flow(0, 100, 0, 100, handle=0, delivery_count=0, link_credit=1)))
    assert watched.passes(500) == ([], None)
    link.send(b"a message", tag=b"1", settled=False)
    assert watched.passes(500) == ([], None)
    watched.events(watched.peer.send(Disposition(True, 0, 0, settled=True, state=Accepted())))
    assert watched.passes(600) == ([], None)
    assert watched.passes(1) == (["link"], None)


def test_messages_from_the_peer_keep_a_link_in_use(watched: Watched) -> None:
    link = linked(watched, receives=False)
    link.grant(10)
    watched.passes(500)
    watched.events(watched.peer.send(Transfer(0, 0, b"1", 0, settled=True), payload=b"a message"))
    assert watched.passes(600) == ([], None)
    assert watched.passes(1) == (["link"], None)
