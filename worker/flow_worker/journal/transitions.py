"""Decides how an entry changes: pure functions from one entry to the next, without a store and without a clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from flow_contracts.result import FlowResult, Status
from flow_worker.journal.entry import Entry, JobKey, LeaseHolder, NextStep, StepKind
from flow_worker.journal.history import Event, EventKind, with_event
from flow_worker.journal.port import Busy, Concluded, Conflict, LeaseLost, Waiting

_DENIES_A_CALL = frozenset({Status.FAILED, Status.EXPIRED, Status.REFUSED})
"""The statuses of a request that a worker ends without a call."""
_MAX_EARLIER_ORIGINS = 16
_WAITS: Mapping[StepKind, EventKind] = {"call": "waits to call", "poll": "waits to poll"}


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """The times after which the journal forgets an entry, or stops expecting a step."""

    retention: timedelta
    """From the last change of an entry to its expiry."""
    overdue: timedelta
    """From the due time of a step to the moment when another message may take it over."""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """An attempt to acquire the lease: its token, its time, the duration, and the calls that the message reports.

    `reached` is a time that has provably come: an attempt on a machine whose clock is ahead must not take over the
    lease of a call under way. See `Journal.acquire` for `repeatable` and `ending`.
    """

    token: str
    now: datetime
    duration: timedelta
    calls: int
    reached: datetime
    repeatable: bool = False
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """The attempt holds the lease once `entry` is written."""

    entry: Entry
    calls: int
    interrupted: bool
    step: NextStep | None


def acquire(
    entry: Entry | None, job: JobKey, request: LeaseRequest, rules: RetentionRules
) -> Granted | Concluded | Busy | Waiting | Conflict:
    """Return the entry with the lease granted, or the reason why the lease is not granted."""
    entry = live(entry, request.now)
    if entry is None:
        return _granted(_blank(job, request), job, request, rules)
    # Before the result: a sender that reuses a message ID must not get the result of another request.
    if entry.fingerprint != job.fingerprint:
        return Conflict()
    if entry.standing is not None:
        return Concluded(entry.standing, published=entry.published_for == job.origin)
    match entry.state:
        case "leased" if entry.holder is not None:
            return _acquire_leased(entry, entry.holder, job, request, rules)
        case "waiting" if entry.step is not None:
            return _acquire_waiting(entry, entry.step, job, request, rules)
        case "leased" | "waiting" | "released" | "concluded":
            # Normally "released". An entry without the holder, step or result of its state is free too.
            return _granted(entry, job, request, rules, interrupted=entry.call_lost)
        case _:
            assert_never(entry.state)


def _acquire_leased(
    entry: Entry, holder: LeaseHolder, job: JobKey, request: LeaseRequest, rules: RetentionRules
) -> Granted | Busy:
    if job.origin == entry.origin and job.number > holder.number:
        # A later continuation of the same message proves that the holder's step ended: the worker sends it only after
        # the verdict on the call before. Only the journal write of that step was lost.
        return _granted(entry, job, request, rules)
    if request.reached < holder.until:
        return Busy(holder.until)
    taken_over = "the lease of the worker before expired"
    # A lease that only ended the request made no call. A call lost before it is still unresolved.
    interrupted = holder.after_lost_call or not holder.ending
    return _granted(entry, job, request, rules, taken_over=taken_over, interrupted=interrupted)


def _acquire_waiting(
    entry: Entry, step: NextStep, job: JobKey, request: LeaseRequest, rules: RetentionRules
) -> Granted | Waiting:
    # The expected continuation, or a later one whose own step the journal could not record.
    if job.origin == entry.origin and job.number >= step.number:
        return _granted(entry, job, request, rules)
    if request.reached < step.due + rules.overdue:
        return Waiting(step, entry.origin)
    return _granted(entry, job, request, rules, taken_over="its continuation did not come")


def _granted(
    entry: Entry,
    job: JobKey,
    request: LeaseRequest,
    rules: RetentionRules,
    *,
    taken_over: str = "",
    interrupted: bool = False,
) -> Granted:
    step = entry.step if entry.step is not None and entry.step.number >= job.number else None
    # A job that takes over a step gets the step's number. If the real continuation still comes, it then meets a lease
    # of the same number (Busy), and does not pass for a later step.
    number = max(job.number, step.number if step else 0)
    # An earlier holder had already counted the lost call; `interrupted` reports it again.
    counted = interrupted and (entry.call_lost or _ended_after_lost_call(entry.holder))
    calls = max(entry.calls - counted, request.calls)
    may_have_called = interrupted and (step is None or step.kind == "call")
    # After a lost call, the worker calls only a flow that it may call twice.
    ending = request.ending or (may_have_called and not request.repeatable)
    until = request.now + request.duration
    kind: EventKind = "taken over" if taken_over else "begun"
    changed = _changed(
        entry,
        Event(request.now, kind, number, taken_over),
        until + rules.retention,
        origin=job.origin,
        earlier_origins=_earlier_origins(entry, job),
        state="leased",
        calls=calls + may_have_called,
        holder=LeaseHolder(request.token, number, until, after_lost_call=may_have_called, ending=ending),
        call_lost=False,
        step=step,
        correlation_id=job.correlation_id or entry.correlation_id,
        flow=job.flow or entry.flow,
    )
    return Granted(changed, calls, interrupted, step)


def schedule(
    current: Entry | None, leased: Entry, step: NextStep, now: datetime, rules: RetentionRules
) -> Entry | None:
    """Return the entry of a request that waits for `step`; None if the lease was lost.

    `leased` is the entry as it was written with the lease, `current` the stored one. So also in the functions below.
    """
    entry = _if_still_leased(live(current, now), leased)
    if entry is None:
        return None
    event = Event(now, _WAITS[step.kind], step.number, _reason(step))
    expires, calls = max(now, step.due) + rules.retention, max(entry.calls, step.calls)
    return _changed(entry, event, expires, state="waiting", calls=calls, holder=None, step=step)


def release(
    current: Entry | None, leased: Entry, now: datetime, rules: RetentionRules, *, calls: int = 0
) -> Entry | None:
    """Return the entry without its lease, free for any attempt; None if the lease was lost.

    `calls`: the number of calls so far, if one went out under this lease.
    """
    entry = _if_still_leased(live(current, now), leased)
    if entry is None:
        return None
    # A call under this lease may be repeated. But a call lost under the lease before is still unresolved, and the next
    # holder must learn of it.
    call_lost = leased.holder is not None and leased.holder.after_lost_call
    event = Event(now, "released", _number(leased))
    calls = max(entry.calls, calls)
    expires = now + rules.retention
    return _changed(entry, event, expires, state="released", calls=calls, holder=None, call_lost=call_lost)


def conclude(
    current: Entry | None, leased: Entry, result: FlowResult, now: datetime, rules: RetentionRules
) -> Entry | None:
    """Return the entry with its result; None if another request has the message ID by now.

    The first result stands. A lost lease does not matter if the flow did answer. Raises `LeaseLost` if the result
    denies a call, and the lease was lost: the next holder may have called the flow.
    """
    entry = live(current, now) or leased
    if entry.fingerprint != leased.fingerprint:
        return None
    if entry.result is not None:
        return entry
    if leased.is_ending and result.status in _DENIES_A_CALL and _if_still_leased(entry, leased) is None:
        raise LeaseLost
    calls = max(_calls_with_the_one_under_way(entry, leased), result.attempts)
    result = result.model_copy(update={"attempts": calls}) if calls > result.attempts else result
    detail = result.status.value if result.error is None else f"{result.status.value}: {result.error.code}"
    event, expires = Event(now, "concluded", _number(leased), detail), now + rules.retention
    return _changed(entry, event, expires, state="concluded", calls=calls, holder=None, step=None, result=result)


def settle(entry: Entry | None, result: FlowResult, now: datetime, rules: RetentionRules) -> Entry | None:
    """Return the entry with its settling result; None if there is no `unknown` result to settle.

    The first settling result stands. `result` names the request: another one may have the message ID by now.
    """
    entry = live(entry, now)
    if entry is None or entry.result is None or entry.result.status is not Status.UNKNOWN:
        return None
    accepted = entry.result.times.accepted
    if (entry.result.correlation_id, accepted) != (result.correlation_id, result.times.accepted):
        return None
    if entry.settled is not None:
        return entry
    number = entry.history[-1].number if entry.history else 0
    detail = result.status.value if result.error is None else f"{result.status.value}: {result.error.code}"
    return _changed(entry, Event(now, "settled", number, detail), now + rules.retention, settled=result)


def mark_published(entry: Entry | None, origin: str, now: datetime, rules: RetentionRules) -> Entry | None:
    """Return the entry with its result published for the message `origin`; None if nothing changes."""
    entry = live(entry, now)
    if entry is None or entry.result is None or entry.published_for == origin:
        return None
    number = entry.history[-1].number if entry.history else 0
    return _changed(entry, Event(now, "published", number), now + rules.retention, published_for=origin)


def keep_published(
    entry: Entry | None, job: JobKey, result: FlowResult, now: datetime, retention: timedelta
) -> Entry | None:
    """Return the entry of a published result that no lease precedes; None if there is an entry already."""
    if live(entry, now) is not None:
        return None
    blank = Entry(job.message_id, job.fingerprint, job.origin, "concluded", result.attempts, now, result=result)
    return _changed(blank, Event(now, "published", job.number), now + retention, published_for=job.origin)


def live(entry: Entry | None, now: datetime) -> Entry | None:
    """Return the entry, or None if it has expired."""
    return None if entry is None or now >= entry.expires else entry


def _blank(job: JobKey, request: LeaseRequest) -> Entry:
    return Entry(job.message_id, job.fingerprint, job.origin, "released", 0, request.now)


def _if_still_leased(current: Entry | None, leased: Entry) -> Entry | None:
    """Return the current entry if it still carries the same lease. A purged entry counts as unchanged."""
    if current is None:
        return leased
    if current.holder is None or leased.holder is None or current.holder.token != leased.holder.token:
        return None
    return current


def _earlier_origins(entry: Entry, job: JobKey) -> tuple[str, ...]:
    if entry.origin == job.origin:
        return entry.earlier_origins
    others = (origin for origin in (*entry.earlier_origins, entry.origin) if origin != job.origin)
    return tuple(others)[-_MAX_EARLIER_ORIGINS:]


def _ended_after_lost_call(holder: LeaseHolder | None) -> bool:
    return holder is not None and holder.ending and holder.after_lost_call


def _calls_with_the_one_under_way(entry: Entry, leased: Entry) -> int:
    """Return the calls that went out, or may have, with the one of another holder that took the lease over."""
    step, holder = entry.step, entry.holder
    calling = holder is not None and not holder.ending and (step is None or step.kind == "call")
    return entry.calls + (calling and _if_still_leased(entry, leased) is None)


def _number(leased: Entry) -> int:
    return leased.holder.number if leased.holder else 0


def _reason(step: NextStep) -> str:
    return f"{step.code}: {step.cause}" if step.cause else step.code


def _changed(entry: Entry, event: Event, expires: datetime, **changes: Any) -> Entry:
    return replace(entry, history=with_event(entry.history, event), expires=expires, **changes)
