"""Holds the journal's record of one request as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from flow_contracts.result import FlowResult, FlowRun
from flow_worker.journal.history import Event

State = Literal["leased", "waiting", "released", "concluded"]
"""`leased`: a worker acts on the request until its lease ends. `waiting`: a continuation will take the next step.
`released`: no worker holds a lease and nothing is decided. `concluded`: the request has its result.
"""

StepKind = Literal["call", "poll"]


@dataclass(frozen=True, slots=True)
class JobKey:
    """Identifies a job to the journal: the request, and how far it has come."""

    message_id: str
    fingerprint: str
    """A hash over principal, flow, input and reply address. Two messages with one fingerprint are the same request."""
    origin: str
    """The broker's own identity of the message that began the request."""
    number: int
    """0: the request itself; n: its n-th continuation."""
    correlation_id: str | None = field(default=None, compare=False)
    flow: str | None = field(default=None, compare=False)
    """For people who look the request up; they do not identify it."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """The next step of a request that waits."""

    number: int
    """The number of the continuation that takes the step."""
    kind: StepKind
    due: datetime
    calls: int
    """The number of flow calls made so far."""
    code: str
    cause: str
    """The reason for the wait, as a code and as a sentence."""
    status_url: str | None = field(default=None, repr=False)  # a secret: its signature authorizes the reader
    fresh_token: bool = False
    run: FlowRun | None = None
    started: datetime | None = None
    failures: int = 0
    """The number of status polls that failed in a row."""
    digest: str | None = None
    """The hash of the continuation message that takes the step; None from workers of earlier versions."""


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The attempt that holds the lease on a request."""

    token: str
    """Random, one for each attempt: two attempts of one worker differ too."""
    number: int
    """The number of the step that the holder takes."""
    until: datetime
    after_lost_call: bool = False
    """The lease before this one expired during a call, so that one call may have gone out unrecorded."""
    ending: bool = False
    """No call goes out under this lease: its holder only ends the request."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The journal's record of one request."""

    message_id: str
    fingerprint: str
    origin: str
    """Identifies the message that holds the lease or waits; otherwise the last one that did."""
    earlier_origins: tuple[str, ...] = field(default=(), kw_only=True)
    """Identifies the other messages that held the lease; the latest ones only."""
    state: State
    calls: int
    """The number of calls that went out, or may have, before the one under way."""
    expires: datetime
    """From this time on the entry counts as absent."""
    holder: LeaseHolder | None = None
    call_lost: bool = False
    """The lease was released, and the outcome of the last call is unknown."""
    step: NextStep | None = None
    result: FlowResult | None = field(default=None, repr=False)
    settled: FlowResult | None = field(default=None, repr=False, kw_only=True)
    """The second result, which settled an `unknown` one. A worker of an earlier version drops it when it writes."""
    published_for: str | None = None
    """The origin of the message that the result was last published for."""
    history: tuple[Event, ...] = ()
    correlation_id: str | None = None
    flow: str | None = None
    """None in an entry that a worker of an earlier version wrote last."""

    version: Literal[1] = 1
    """The number of the format. A later version of the worker may add optional fields; another change raises it."""

    @property
    def standing(self) -> FlowResult | None:
        """The result that counts: the settling one, if there is one."""
        return self.settled or self.result

    @property
    def is_ending(self) -> bool:
        """Return whether no call goes out under the lease on the request, which only ends the request."""
        return self.holder is not None and self.holder.ending

    @property
    def origins(self) -> frozenset[str]:
        """Identifies the messages that began, continued or ended the request."""
        return frozenset({self.origin, *self.earlier_origins, self.published_for or self.origin})
