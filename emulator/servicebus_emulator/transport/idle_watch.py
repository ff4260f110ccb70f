"""Detection of idle peers and idle links of one connection.

The caller passes the time in seconds and checks at intervals. A timeout is therefore detected up to one interval late
and never early. Timestamps per frame would be exact, but would cost time on every frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from servicebus_emulator.amqp import (
    Connection,
    ConnectionClosed,
    ConnectionOpened,
    DispositionReceived,
    Error,
    Event,
    FlowReceived,
    Link,
    LinkAttaching,
    LinkDetached,
    MessageReceived,
    Session,
    SessionBegun,
    SessionEnded,
)
from servicebus_emulator.amqp.errors import RESOURCE_LIMIT_EXCEEDED
from servicebus_emulator.servicebus.errors import CONNECTION_FORCED
from servicebus_emulator.servicebus.links.addresses import Node, parse_address
from servicebus_emulator.transport.connection_rules import ConnectionRules

_CHECKS_PER_LIMIT = 8
_MIN_INTERVAL_SECONDS = 0.02
_MAX_INTERVAL_SECONDS = 15.0


class IdleWatch:
    """Watches one connection from the moment it was made."""

    def __init__(self, connection: Connection, rules: ConnectionRules, now: float) -> None:
        self._connection = connection
        self._rules = rules
        self._silence_seconds = connection.limits.idle_timeout_ms / 1000
        self._received = False
        self._received_at = now
        self._linkless_since: float | None = now
        self._had_links = False
        self._used: set[Link | Session] = set()
        self._last_use: dict[Link, tuple[float, int]] = {}
        """For each link, the time of the last check that found it in use, and its credit then."""

    @property
    def interval_seconds(self) -> float:
        """Seconds between two checks: a fraction of the shortest limit."""
        rules = self._rules
        limits = (
            self._silence_seconds,
            rules.first_link_within_seconds,
            rules.linkless_seconds,
            rules.idle_link_seconds,
        )
        return min(max(min(limits) / _CHECKS_PER_LIMIT, _MIN_INTERVAL_SECONDS), _MAX_INTERVAL_SECONDS)

    def bytes_received(self) -> None:
        """Record that the peer sent bytes; a heartbeat counts."""
        self._received = True

    def event_received(self, event: Event) -> None:
        """Record that the peer used a link."""
        match event:
            case MessageReceived(link=link) | FlowReceived(link=link):
                self._used.add(link)
            case DispositionReceived(session=session):
                self._used.add(session)  # the session stands for all its links: a lookup per delivery would cost more
            case (
                ConnectionOpened()
                | ConnectionClosed()
                | SessionBegun()
                | SessionEnded()
                | LinkAttaching()
                | LinkDetached()
            ):
                pass
            case _:
                assert_never(event)

    def close_reason(self, now: float) -> Error | None:
        """Return the error to close the connection with, or None if it may stay open."""
        if self._received:
            self._received, self._received_at = False, now
        if now - self._received_at >= self._silence_seconds:
            return Error(RESOURCE_LIMIT_EXCEEDED, "The idle timeout expired: nothing came from the client.", {})
        return self._linkless(now)

    def idle_links(self, now: float) -> list[Link]:
        """Return the links to entities that were idle for too long."""
        self._last_use = {link: self._use(link, now) for link in self._links() if link.open and _is_to_entity(link)}
        self._used.clear()
        return [link for link, (at, _) in self._last_use.items() if now - at >= self._rules.idle_link_seconds]

    def _linkless(self, now: float) -> Error | None:
        if any(True for _ in self._links()):
            self._had_links, self._linkless_since = True, None
            return None
        if self._linkless_since is None:
            self._linkless_since = now
        allowed = self._rules.linkless_seconds if self._had_links else self._rules.first_link_within_seconds
        if now - self._linkless_since < allowed:
            return None
        text = (
            f"The connection was inactive for more than the allowed {round(allowed * 1000)} milliseconds"
            f" and is closed by container '{self._connection.container_id}'."
        )
        return Error(CONNECTION_FORCED, text, {})

    def _use(self, link: Link, now: float) -> tuple[float, int]:
        at, credit = self._last_use.get(link, (now, link.credit))
        # Our messages to the peer use up credit: the link is in use although the peer sent nothing.
        used = link in self._used or link.session in self._used or link.credit != credit
        return (now if used else at), link.credit

    def _links(self) -> Iterator[Link]:
        return (link for session in self._connection.sessions for link in session.links if not link.detached)


def _is_to_entity(link: Link) -> bool:
    terminus = link.attach.target if link.peer_is_sender else link.attach.source
    return parse_address((terminus.address if terminus else None) or "").node is Node.ENTITY
