"""One request's entry in the journal: what it holds, and what may become of it. Pure data, no store, no clock.

An entry is in one of four states: `calling` (somebody holds the claim, until its lease ends), `waiting` (a continuation
will do the next step), `released` (nobody holds it, nothing is decided) and `concluded` (it has its result).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from flow_contracts.result import FlowResult, FlowRun
from flow_worker.journal.history import Event, What, with_event

State = Literal["calling", "waiting", "released", "concluded"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a handler wants to do, for which message."""

    message_id: str
    fingerprint: str
    """Hash of all that makes two messages the same request: principal, flow, input, reply address."""
    origin: str
    """The broker's own identity of the message that began the request."""
    number: int
    """0: the request itself; n: its n-th continuation."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done next for a request that waits."""

    number: int
    """Of the continuation that will do it."""
    kind: Literal["call", "poll"]
    due: datetime
    calls: int
    """Calls made so far."""
    code: str
    cause: str
    """Why it waits."""
    status_url: str | None = field(default=None, repr=False)  # its signature opens it
    fresh_token: bool = False
    run: FlowRun | None = None
    started: datetime | None = None
    failures: int = 0
    """Polls that failed in a row."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the claim, and until when."""

    token: str
    number: int
    """Of the step that is being done."""
    until: datetime
    after_lost: bool = False
    """It was taken over from one who never said what became of a call."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal remembers of one request."""

    message_id: str
    fingerprint: str
    origin: str
    """Of the message that holds the claim, or that waits; else of the last one that did."""
    state: State
    calls: int
    """Calls that went out, or may have, before the one that is under way."""
    expires: datetime
    """From then on it is as if the entry were not there."""
    holder: Holder | None = None
    lost: bool = False
    """It was given back, and nobody knows what became of the last call."""
    step: Step | None = None
    result: FlowResult | None = field(default=None, repr=False)
    published_for: str | None = None
    """The origin whose message had the result published last."""
    story: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """How long entries are kept after their last change, and how long past its due time a step may be begun."""

    retention: timedelta
    overdue: timedelta


@dataclass(frozen=True, slots=True)
class Bid:
    """An attempt to get the claim: whose, when, for how long, and after how many calls as far as the bidder knows."""

    token: str
    now: datetime
    duration: timedelta
    calls: int


# --- what `begin` may say --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """The bidder gets the claim once `entry` is written."""

    entry: Entry
    calls: int
    interrupted: bool
    step: Step | None


@dataclass(frozen=True, slots=True)
class Concluded:
    """The request has its result. `published`: it was published already for the message that asks."""

    result: FlowResult = field(repr=False)
    published: bool


@dataclass(frozen=True, slots=True)
class Busy:
    """Someone else holds the claim, at most until then."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """The continuation `step.number` of the message `origin` will go on with the request."""

    step: Step
    origin: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another request has this message ID."""


# --- transitions -----------------------------------------------------------------------------------------------------


def begin(
    entry: Entry | None, subject: Subject, bid: Bid, rules: Rules
) -> Taken | Concluded | Busy | Waiting | Conflict:
    """Whether the bidder may act on the request now, and if not, why."""
    entry = live(entry, bid.now)
    if entry is None:
        return _taken(_blank(subject, bid), subject, bid, rules)
    if entry.fingerprint != subject.fingerprint:
        return Conflict()
    if entry.result is not None:
        return Concluded(entry.result, published=entry.published_for == subject.origin)
    if entry.state == "calling" and entry.holder is not None:
        return _begin_held(entry, entry.holder, subject, bid, rules)
    if entry.state == "waiting" and entry.step is not None:
        return _begin_waiting(entry, entry.step, subject, bid, rules)
    return _taken(entry, subject, bid, rules, interrupted=entry.lost)


def _begin_held(entry: Entry, holder: Holder, subject: Subject, bid: Bid, rules: Rules) -> Taken | Busy:
    if subject.origin == entry.origin and subject.number > holder.number:
        # A continuation is made only after the call before it was judged; what was lost is the entry's own step.
        return _taken(entry, subject, bid, rules)
    if bid.now < holder.until:
        return Busy(holder.until)
    return _taken(entry, subject, bid, rules, taken_over="the lease of the worker before ran out", interrupted=True)


def _begin_waiting(entry: Entry, step: Step, subject: Subject, bid: Bid, rules: Rules) -> Taken | Waiting:
    if subject.origin == entry.origin and subject.number >= step.number:
        return _taken(entry, subject, bid, rules)
    if bid.now < step.due + rules.overdue:
        return Waiting(step, entry.origin)
    return _taken(entry, subject, bid, rules, taken_over="its continuation did not come")


def _taken(
    entry: Entry, subject: Subject, bid: Bid, rules: Rules, *, taken_over: str = "", interrupted: bool = False
) -> Taken:
    step = entry.step if entry.step is not None and entry.step.number >= subject.number else None
    # Who takes over a step acts as its continuation: should that come after all, it must find itself at work.
    number = max(subject.number, step.number if step else 0)
    calls = max(entry.calls, bid.calls) - entry.lost  # who gave it back had counted the call that was lost
    may_have_called = interrupted and (step is None or step.kind == "call")
    until = bid.now + bid.duration
    what: What = "taken over" if taken_over else "begun"
    changed = _changed(
        entry,
        Event(bid.now, what, number, taken_over),
        until + rules.retention,
        origin=subject.origin,
        state="calling",
        calls=calls + may_have_called,
        holder=Holder(bid.token, number, until, after_lost=may_have_called),
        lost=False,
        step=step,
    )
    return Taken(changed, calls, interrupted, step)


def wait(current: Entry | None, held: Entry, step: Step, now: datetime, rules: Rules) -> Entry | None:
    """The entry of a request that waits for `step`; None if the claim is not ours any more.

    `held` is the entry as it was when we got the claim, `current` as it is now; so in the functions below.
    """
    entry = _ours(live(current, now), held)
    if entry is None:
        return None
    event = Event(now, "waits to call" if step.kind == "call" else "waits to poll", step.number, _why(step))
    expires, calls = max(now, step.due) + rules.retention, max(entry.calls, step.calls)
    return _changed(entry, event, expires, state="waiting", calls=calls, holder=None, step=step)


def release(current: Entry | None, held: Entry, now: datetime, rules: Rules) -> Entry | None:
    """The entry of a request that anybody may begin anew; None if the claim is not ours any more."""
    entry = _ours(live(current, now), held)
    if entry is None:
        return None
    # Nothing was called under this claim; but whoever comes next must hear of a call that was lost before it.
    lost = held.holder is not None and held.holder.after_lost
    event = Event(now, "released", _number(held))
    return _changed(entry, event, now + rules.retention, state="released", holder=None, lost=lost)


def conclude(current: Entry | None, held: Entry, result: FlowResult, now: datetime, rules: Rules) -> Entry | None:
    """The entry with its result; None if another request has the message ID by now.

    The first result stands. An answer counts even if the claim was lost meanwhile: it was had.
    """
    entry = live(current, now) or held
    if entry.fingerprint != held.fingerprint:
        return None
    if entry.result is not None:
        return entry
    calls = max(entry.calls, result.attempts)
    detail = result.status.value if result.error is None else f"{result.status.value}: {result.error.code}"
    event, expires = Event(now, "concluded", _number(held), detail), now + rules.retention
    return _changed(entry, event, expires, state="concluded", calls=calls, holder=None, step=None, result=result)


def mark_published(entry: Entry | None, origin: str, now: datetime, rules: Rules) -> Entry | None:
    """The entry whose result was published for the message `origin`; None if there is nothing to note."""
    entry = live(entry, now)
    if entry is None or entry.result is None or entry.published_for == origin:
        return None
    number = entry.story[-1].number if entry.story else 0
    return _changed(entry, Event(now, "published", number), now + rules.retention, published_for=origin)


def live(entry: Entry | None, now: datetime) -> Entry | None:
    """The entry, unless its time is over."""
    return None if entry is None or now >= entry.expires else entry


def _blank(subject: Subject, bid: Bid) -> Entry:
    return Entry(subject.message_id, subject.fingerprint, subject.origin, "released", 0, bid.now)


def _ours(current: Entry | None, held: Entry) -> Entry | None:
    if current is None:
        return held
    mine = current.holder is not None and held.holder is not None and current.holder.token == held.holder.token
    return current if mine else None


def _number(held: Entry) -> int:
    return held.holder.number if held.holder else 0


def _why(step: Step) -> str:
    return f"{step.code}: {step.cause}" if step.cause else step.code


def _changed(entry: Entry, event: Event, expires: datetime, **changes: Any) -> Entry:
    """The entry after the event, kept until it expires."""
    return replace(entry, story=with_event(entry.story, event), expires=expires, **changes)
