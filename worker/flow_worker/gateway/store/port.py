"""Declares what a store of the gateway does, with the plain data that passes through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any, NewType, Protocol

MAX_ID_CHARACTERS = 128
"""The limit of Service Bus for a message ID. A store has no request with a longer ID."""


class StateName(StrEnum):
    """The state of a request without a result."""

    QUEUED = "queued"
    CALLING = "calling"
    WAITING = "waiting"


class PutResult(StrEnum):
    """What a store did with a result."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """The request has a result that stands: this one came earlier, or is a copy."""
    UNKNOWN = "unknown"
    """The store has no such request."""


class Standing(IntEnum):
    """Which of two results of one request stands: the one of the later place in `_PRECEDENCE`, else the first.

    A store keeps the numbers.
    """

    UNPROVEN = 0
    """Nobody proved to have sent the request that this result answers; another sender may have used its ID."""
    FIRST = 1
    REPLAY = 2
    """A person replayed the request's dead letter. Of two such results the later one stands, by `StoredResult.at`."""
    SETTLED = 3
    """It settles an `unknown` result."""


_PRECEDENCE = (Standing.UNPROVEN, Standing.FIRST, Standing.SETTLED, Standing.REPLAY)


def stands_instead(new: Standing, at: Any, stored: Standing, stored_at: Any) -> bool:
    """Return whether a result stands instead of the stored one. The times are of one type that can be compared."""
    is_higher = _PRECEDENCE.index(new) > _PRECEDENCE.index(stored)
    return is_higher or (new is stored is Standing.REPLAY and bool(at > stored_at))


@dataclass(frozen=True, slots=True)
class PrincipalId:
    """The identity of a caller: the IDs of the Entra tenant and of the object in it, both in lower case."""

    tenant: str
    oid: str


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that the gateway accepted, without its input."""

    id: str
    """Also the correlation ID on the request queue. The message ID there has a prefix before it; see `prefix_of`."""
    owner: PrincipalId
    """The principal whose request it is; on behalf of a user, that user."""
    asserter: PrincipalId | None
    """The application that asked on behalf of the owner; None if the owner asked."""
    flow: str
    digest: str
    """Distinguishes payloads: a request with the same ID and another digest is another request."""
    created_at: datetime
    trace_parent: str | None = None
    sent: bool = False
    """Whether the request queue has accepted the request. It may have done so although this is false."""

    def may_read(self, caller: PrincipalId) -> bool:
        """Return whether the caller may read the state and the result."""
        return caller in (self.owner, self.asserter)


@dataclass(frozen=True, slots=True)
class RequestState:
    """The newest state of a request that the worker has reported."""

    state: StateName
    at: datetime
    until: datetime | None = None
    """The time of the worker's next attempt, where it is known."""
    code: str | None = None
    """The result code or wait code of the reason."""
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result: the body of its message, a JSON document of the contract `flow-result/1`."""

    body: bytes = field(repr=False)
    at: datetime
    """The time when the reply queue accepted the result, by the broker's clock."""


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What a store knows of one request."""

    record: RequestRecord
    state: RequestState
    """Queued since `record.created_at` until the worker reports another state."""
    result: StoredResult | None = None
    is_gone: bool = False
    """The retention of the result has ended: the gateway answers 410."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a store keeps what it has."""

    results: timedelta
    """A result, since it was stored. Its record stays as long again, without the result."""
    pending: timedelta = timedelta(days=100)
    """A request without a result, since it was created. A worker may wait for a flow run for 90 days."""


class ResultTooLarge(Exception):
    """The store cannot keep a result of this size."""


Cursor = NewType("Cursor", str)
"""A place in the changes of a store; its form belongs to the store."""
NOW = Cursor("")
"""The cursor that stands for the present."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Requests whose state or result has changed. A request may appear again without another change."""

    request_ids: frozenset[str]
    cursor: Cursor
    """The place behind these changes."""
    has_more: bool = False
    """Whether there may be further changes by now, which the limit of one read left out."""


class GatewayStore(Protocol):
    """Keeps requests, states and results for all replicas of a gateway.

    Every method except `mark_sent` and `aclose` raises `TemporarilyUnavailable` with the code `unavailable` if the
    store does not work at the moment. On return, a write survives the death of the process, and every replica reads it.
    `sync` makes it survive a power cut, too.
    """

    feed_seconds: float
    """The interval at which a replica with waiters reads `changes`."""

    async def add(self, record: RequestRecord) -> RequestRecord | None:
        """Insert the record and return None. If the store has a request with this ID, return its record instead."""
        ...

    async def mark_sent(self, request_id: str) -> None:
        """Record soon that the request queue accepted the request. It returns at once, and raises nothing.

        A lost mark loses nothing: a repetition of the request sends the message again, which the queue drops.
        """
        ...

    async def get(self, request_id: str, *, reader: PrincipalId | None = None) -> StoredRequest | None:
        """Return the request with its newest state and its result; None if there is no such request.

        The ID may be any text: it comes from the path of an HTTP request. A `reader` who may not read the request costs
        no read of the result, and gets none: the time of a large one would tell that the request exists.
        """
        ...

    async def put_state(self, request_id: str, state: RequestState) -> bool:
        """Store a state, unless the request has a newer one, has a result or is unknown. Return whether it is stored.

        The messages of states may arrive in any order, and more than once: `state.at` decides.
        """
        ...

    async def put_result(
        self, request_id: str, result: StoredResult, *, standing: Standing = Standing.FIRST
    ) -> PutResult:
        """Store the result of a request, unless it has one that stands. A repetition changes nothing.

        Raises `ResultTooLarge`.
        """
        ...

    async def changes(self, cursor: Cursor) -> Changes:
        """Return requests with a change behind the cursor, a bounded number at once.

        With `NOW` return no request, but a cursor: each change that begins afterwards is behind it.
        The changes of this replica are included. The cost does not depend on the number of waiters.
        """
        ...

    async def sync(self) -> None:
        """Return once all writes that have returned before survive a power cut."""
        ...

    async def purge(self, now: datetime) -> int:
        """Remove results and records whose retention has ended. Return their number."""
        ...

    async def check(self) -> None:
        """Return if the store takes a new request at the moment; readiness and `doctor` ask this."""
        ...

    async def aclose(self) -> None:
        """Finish the operations under way and release all resources."""
        ...
