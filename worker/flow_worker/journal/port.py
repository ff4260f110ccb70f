"""Declares the journal that the pipeline uses, with the plain data that passes through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from flow_contracts.result import FlowResult
from flow_worker.journal.entry import Entry, JobKey, NextStep


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right to act on a request until the lease ends."""

    entry: Entry = field(repr=False)
    """The entry as it was written with the lease."""
    version: str
    """The store's version of that entry."""

    @property
    def message_id(self) -> str:
        """The message ID of the request."""
        return self.entry.message_id

    @property
    def ending(self) -> bool:
        """Return whether no call goes out under this lease."""
        return self.entry.is_ending


@dataclass(frozen=True, slots=True)
class Acquired:
    """The caller holds the lease."""

    lease: Lease
    calls: int
    """The number of calls begun before."""
    interrupted: bool
    """One more call may have gone out: the holder before never reported its outcome."""
    step: NextStep | None = None
    """The step that the journal has scheduled, if there is one."""


@dataclass(frozen=True, slots=True)
class Concluded:
    """The request has its result. `published`: it was already published for the message of this job."""

    result: FlowResult = field(repr=False)
    published: bool


@dataclass(frozen=True, slots=True)
class Busy:
    """Another attempt holds the lease, until `until` at the latest."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """The continuation `step.number` of the message `origin` will take the next step."""

    step: NextStep
    origin: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another request has this message ID."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The request was begun and has no result yet."""

    calls: int


class LeaseLost(Exception):
    """Another attempt took the lease over and may call the flow, so a result without a call must not stand."""


Acquisition = Acquired | Concluded | Busy | Waiting | Conflict


class Journal(Protocol):
    """Remembers the calls and the result of each request.

    Every method raises `TemporarilyUnavailable` if the journal does not answer within its deadline.
    """

    async def acquire(
        self, job: JobKey, *, duration: timedelta, calls: int, repeatable: bool = False, ending: bool = False
    ) -> Acquisition:
        """Acquire the lease on the job's request for `duration`, or return why it cannot be acquired.

        `calls` is the number of calls that the message itself reports. A continuation may know of more calls than the
        journal, which may have been unavailable when the worker sent the continuation.
        `repeatable` states that the worker may call the flow twice, so the lease need not survive a power cut.
        `ending` states that no call goes out under the lease. If its holder is lost, no call counts.
        """
        ...

    async def schedule(self, lease: Lease, step: NextStep) -> None:
        """Record the next step and end the lease. Do nothing if the lease was lost."""
        ...

    async def release(self, lease: Lease, *, calls: int = 0) -> None:
        """End a lease without a call, or with a call that may be repeated. Do nothing if the lease was lost.

        `calls`: the number of calls so far, with the one under this lease if there was one.
        """
        ...

    async def conclude(self, lease: Lease, result: FlowResult, *, max_bytes: int | None = None) -> FlowResult:
        """Store the result, even if the lease was lost. Return the one that stands: the first that was stored.

        `max_bytes`: the largest message of the reply queue, if it is known. The journal keeps no output beyond it, and
        with 0 no output at all.

        Its `attempts` is at least the number of calls that went out, or may have. Raises `LeaseLost` if the result
        denies a call, but another attempt holds the lease by now.
        """
        ...

    async def settle(self, message_id: str, result: FlowResult) -> FlowResult | None:
        """Store the result that settles an `unknown` one. Return the one that stands: the first that was stored.

        Return None if the request has no `unknown` result, or the journal has forgotten it.
        """
        ...

    async def mark_published(self, message_id: str, origin: str) -> None:
        """Record that the reply queue accepted the result for the message `origin`."""
        ...

    async def keep_published(self, job: JobKey, result: FlowResult, *, retention: timedelta) -> None:
        """Record a published result of a request without an entry, for `retention`. It need not survive a power cut.

        `job` is the stand-in key of the message; see `Recall`.
        """
        ...

    async def keep_mark(self, key: str, *, note: str = "") -> None:
        """Keep a small entry without a request: its existence is the record. `note` becomes its `fingerprint`.

        A mark survives the death of the process, but perhaps not a power cut.
        """
        ...

    async def recall(self, job: JobKey) -> Concluded | Pending | None:
        """Return the state of the job's request; None if it was never begun or the message ID is another request's."""
        ...

    async def find(self, message_id: str) -> Entry | None:
        """Return the whole entry of a request; None if there is none."""
        ...

    async def purge(self) -> int:
        """Delete expired entries. Return their number."""
        ...
