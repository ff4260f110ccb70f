"""Who has been silent too long: the peer of a connection, or a link of it.

The clock is the caller's, in seconds. Silence is measured from one look to the next, so a verdict may come one
interval between two looks late, never early.
"""

from __future__ import annotations

from collections.abc import Iterator

from servicebus_emulator.amqp import (
    Connection,
    DispositionReceived,
    Error,
    Event,
    FlowReceived,
    Link,
    MessageReceived,
    Session,
)
from servicebus_emulator.amqp.errors import RESOURCE_LIMIT_EXCEEDED
from servicebus_emulator.servicebus.errors import CONNECTION_FORCED
from servicebus_emulator.servicebus.links import addresses
from servicebus_emulator.servicebus.links.addresses import Node
from servicebus_emulator.transport.connection_rules import ConnectionRules

_LOOKS_PER_LIMIT = 8
_SHORTEST_PAUSE_SECONDS = 0.02
_MAX_PAUSE_SECONDS = 15.0


class IdleWatch:
    """Over one connection, from the moment it was made."""

    def __init__(self, connection: Connection, rules: ConnectionRules, now: float) -> None:
        self._connection = connection
        self._rules = rules
        self._silence_seconds = connection.limits.idle_timeout_ms / 1000
        self._heard = False
        self._heard_at = now
        self._linkless_since: float | None = now
        self._had_links = False
        self._busy: set[Link | Session] = set()
        self._last_use: dict[Link, tuple[float, int]] = {}
        """When a link was last seen in use, and its credit then."""

    @property
    def pause_seconds(self) -> float:
        """How long to wait between two looks."""
        rules = self._rules
        limits = (
            self._silence_seconds,
            rules.first_link_within_seconds,
            rules.linkless_seconds,
            rules.idle_link_seconds,
        )
        return min(max(min(limits) / _LOOKS_PER_LIMIT, _SHORTEST_PAUSE_SECONDS), _MAX_PAUSE_SECONDS)

    def heard(self) -> None:
        """The peer sent something: a heartbeat will do."""
        self._heard = True

    def saw(self, event: Event) -> None:
        """The peer used a link."""
        match event:
            case MessageReceived(link=link) | FlowReceived(link=link):
                self._busy.add(link)
            case DispositionReceived(session=session):
                self._busy.add(session)  # of which links is not worth finding out
            case _:
                pass

    def verdict(self, now: float) -> Error | None:
        """Why the connection has to be closed, if it has to."""
        if self._heard:
            self._heard, self._heard_at = False, now
        if now - self._heard_at >= self._silence_seconds:
            return Error(RESOURCE_LIMIT_EXCEEDED, "The idle timeout expired: nothing came from the client.", {})
        return self._linkless(now)

    def idle_links(self, now: float) -> list[Link]:
        """The links to entities that nobody used for too long."""
        self._last_use = {link: self._use(link, now) for link in self._links() if link.open and _is_to_entity(link)}
        self._busy.clear()
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
        # Credit that shrinks with no word of the peer was used up by messages to it.
        used = link in self._busy or link.session in self._busy or link.credit != credit
        return (now if used else at), link.credit

    def _links(self) -> Iterator[Link]:
        return (link for session in self._connection.sessions for link in session.links if not link.detached)


def _is_to_entity(link: Link) -> bool:
    terminus = link.attach.target if link.peer_is_sender else link.attach.source
    return addresses.parse((terminus.address if terminus else None) or "").node is Node.ENTITY
