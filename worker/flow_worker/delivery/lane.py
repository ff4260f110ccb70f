"""The attempts of one sink: bounded in number, each under a lease and a deadline, paused while the sink is down."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.result import FlowResult
from flow_worker.delivery import owed as records
from flow_worker.delivery.outbox import DeliveryOutbox, Held
from flow_worker.delivery.owed import Owed, Trouble
from flow_worker.delivery.port import Attempt, Delivered, GiveUp, Postponed, RetryLater, Sink
from flow_worker.delivery.report import SinkReport
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Entry

_LEASE_MARGIN_SECONDS = 30.0
"""The time beside an attempt's deadline for the lookup before it and the writes around it."""
_JOURNAL_PAUSE_SECONDS = 10.0
_BEHIND_OTHERS = timedelta(milliseconds=1)
_MAX_READY = 256
_MIN_BATCH = 16

Change = Callable[[Owed], Owed | None]
FindEntry = Callable[[str], Awaitable[Entry | None]]


@dataclass(frozen=True, slots=True)
class LaneRules:
    """The bounds of a sink's attempts."""

    max_concurrent: int
    attempt_seconds: float
    pauses: ExponentialBackoff
    max_age: timedelta
    check: timedelta
    """See `outbox.check_seconds`."""


@dataclass(slots=True)
class _Target:
    """What several deliveries share: an organization that is throttled or down for all of them."""

    failures: int = 0
    in_flight: int = 0
    until: datetime | None = field(default=None)

    def is_closed(self, now: datetime) -> bool:
        return self.until is not None and now < self.until

    def is_busy(self) -> bool:
        """Return whether the one attempt that may test a failing target is under way."""
        return self.failures > 0 and self.in_flight > 0

    def answered(self) -> None:
        self.failures, self.until = 0, None


class SinkLane:
    """Attempts the deliveries of one sink."""

    def __init__(
        self,
        sink: Sink,
        rules: LaneRules,
        outbox: DeliveryOutbox,
        find: FindEntry,
        report: SinkReport,
        *,
        now: Callable[[], datetime],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`find` returns the journal's entry of a message ID. `wake` lets the runner fill the lane again."""
        self.sink = sink
        self._rules = rules
        self._outbox = outbox
        self._find = find
        self._report = report
        self._now = now
        self.wake = wake
        self._ready: OrderedDict[str, Held] = OrderedDict()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._again: dict[str, Held] = {}
        self._targets: dict[str, _Target] = {}
        self._has_more = False

    # --- what to attempt next --------------------------------------------------------------------------------------

    def offer(self, held: Held) -> None:
        """Let the lane attempt a delivery soon, if it is due. The store has it in any case."""
        owed = held.owed
        if owed.due is None or owed.due > self._now() or self._target(owed).is_closed(self._now()):
            return
        if owed.key in self._running:
            return  # the end of the attempt under way offers the newest record
        if len(self._ready) < _MAX_READY or owed.key in self._ready:
            self._ready[owed.key] = held
        else:
            self._has_more = True

    def fill(self) -> None:
        """Begin as many attempts as the lane may have under way."""
        now = self._now()
        for key, held in list(self._ready.items()):
            if len(self._running) >= self._rules.max_concurrent:
                return
            target = self._target(held.owed)
            if target.is_busy():
                continue
            del self._ready[key]
            if not target.is_closed(now):  # a closed one is found again in the store
                self._start(key, held, target)

    @property
    def wants_sweep(self) -> bool:
        """Whether the store has more deliveries that are due than the lane knows of, and the lane has room."""
        return self._has_more and len(self._ready) + len(self._running) < self._rules.max_concurrent

    async def sweep(self) -> None:
        """Look in the store for deliveries that are due. Raises `TemporarilyUnavailable`."""
        now = self._now()
        targets = self._targets.values()
        if targets and all(target.is_closed(now) for target in targets):
            return
        size = max(_MIN_BATCH, 4 * self._rules.max_concurrent)
        found = await self._outbox.due(self.sink.name, size)
        self._has_more = len(found) == size
        # Table Storage cannot sort. Without the order, the same delivery would test a failing target each time.
        for held in sorted(found, key=lambda each: each.owed.due or now):
            target = self._target(held.owed)
            if target.until is not None and target.is_closed(now):
                # Out of the way of the others, as the store returns the earliest ones first.
                await self._outbox.defer(held, target.until)
            else:
                self.offer(held)

    def _target(self, owed: Owed) -> _Target:
        try:
            name = self.sink.target_of(owed.delivery(None))
        except Exception:  # noqa: BLE001 - the attempt meets the same error, and reports it
            name = self.sink.name
        return self._targets.setdefault(name, _Target())

    # --- attempts --------------------------------------------------------------------------------------------------

    def _start(self, key: str, held: Held, target: _Target) -> None:
        target.in_flight += 1
        task = asyncio.create_task(self._run(held, target), name=f"delivery to {self.sink.name}")
        self._running[key] = task
        task.add_done_callback(lambda _: self._stopped(key, target))

    def _stopped(self, key: str, target: _Target) -> None:
        target.in_flight -= 1
        del self._running[key]
        if (again := self._again.pop(key, None)) is not None:
            self.offer(again)
        self.wake()

    async def _run(self, held: Held, target: _Target) -> None:
        try:
            ended = await self._attempt(held, target)
        except TemporarilyUnavailable as error:
            # The outbox. The lease ends by itself, and another attempt follows.
            self._report.health.last_error = f"{error.code}: {error.message}"
            return
        except Exception:  # noqa: BLE001 - an internal error; the lease ends by itself
            self._report.internal_error(held.owed)
            return
        if ended is not None and ended.owed.due is not None and ended.owed.due <= self._now():
            self._again[held.owed.key] = ended  # the request got another state meanwhile

    async def _attempt(self, held: Held, target: _Target) -> Held | None:
        lease = timedelta(seconds=self._rules.attempt_seconds + _LEASE_MARGIN_SECONDS)
        leased = await self._outbox.lease(held, lease)
        if leased is None:
            return None
        return await self._outbox.end(leased, await self._change(leased.owed, target))

    async def _change(self, owed: Owed, target: _Target) -> Change:
        """Make the attempt, and return the change of its record."""
        now = self._now()
        try:
            newest = await self._newest(owed)
        except TemporarilyUnavailable:
            return lambda current: replace(current, due=now + timedelta(seconds=_JOURNAL_PAUSE_SECONDS))
        if owed.state == "pending" and (newest is not None or owed.is_parked):
            return self._unparked(owed, newest)
        result = None if owed.state == "pending" else newest or owed.result
        began = self._report.began()
        outcome = "failed"
        try:
            attempt = await self._try(owed, result)
            outcome, change = self._judged(owed, attempt, target)
            return change
        finally:
            self._report.ended(owed, outcome, began)

    async def _newest(self, owed: Owed) -> FlowResult | None:
        """Return the newest result that the journal has for the request. Raises `TemporarilyUnavailable`."""
        entry = await self._find(owed.message_id)
        # Any proven sender can name any message ID: the entry may be that of another request.
        if entry is None or entry.fingerprint != owed.fingerprint:
            return None
        if owed.state == "settled" and entry.settled is None:
            return None  # a worker of an earlier version has written the entry; the record has the result
        return entry.settled or entry.result

    def _unparked(self, owed: Owed, newest: FlowResult | None) -> Change:
        """Return the change of a `pending` record that needs no attempt."""
        now, check = self._now(), self._rules.check
        if newest is None or not owed.is_parked:
            # With a result, the worker that has it opens the state `ended` in a moment. It waits for the reply queue.
            return lambda current: records.parked(current, now + check, trouble=current.trouble)
        promoted = records.promoted(owed, newest, now)
        if not self.sink.wants(promoted.delivery(newest)):
            return lambda _: None
        return lambda current: records.promoted(current, newest, now)

    async def _try(self, owed: Owed, result: FlowResult | None) -> Attempt:
        seconds = self._rules.attempt_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self.sink.deliver(owed.delivery(result))
        except TimeoutError:
            return RetryLater("delivery_timeout", f"the sink did not answer within {seconds:g} s")
        except TemporarilyUnavailable as error:
            return RetryLater(error.code, error.message, error.until)
        except Exception as error:  # noqa: BLE001 - an internal error of one sink must not stop the worker
            self._report.internal_error(owed)
            return RetryLater("internal_error", f"an internal error ({type(error).__name__})")

    # --- the outcome of an attempt ---------------------------------------------------------------------------------

    def _judged(self, owed: Owed, attempt: Attempt, target: _Target) -> tuple[str, Change]:
        """Return the outcome of an attempt and the change of its record; report it."""
        now = self._now()
        match attempt:
            case Delivered(note=note, is_new=is_new):
                target.answered()
                self._report.delivered(owed, note)
                if owed.state == "pending":
                    return "delivered", lambda current: records.parked(current, now + self._rules.check, is_new=is_new)
                return "delivered", lambda _: None
            case Postponed(until=until):
                target.answered()
                self._report.works()
                return "postponed", lambda current: replace(current, due=until)
            case RetryLater():
                return self._judged_failure(owed, attempt, target)
            case GiveUp(code=code, cause=cause):
                target.answered()
                return self._given_up(owed, Trouble(code, cause, now))

    def _judged_failure(self, owed: Owed, attempt: RetryLater, target: _Target) -> tuple[str, Change]:
        now = self._now()
        pause = self._rules.pauses.seconds(target.failures if attempt.is_outage else owed.attempts)
        due = max(now + timedelta(seconds=pause), attempt.not_before or now)
        if attempt.is_outage:
            if target.until is None or not target.is_closed(now):  # once for all attempts that failed together
                target.failures += 1
                target.until = due
            target.until = max(target.until, attempt.not_before or now)
            # Another delivery tests the target next: this one alone may be what it cannot take.
            due = target.until + _BEHIND_OTHERS
        else:
            target.answered()
        self._report.failed(owed, attempt.code, attempt.cause)
        trouble = Trouble(attempt.code, attempt.cause, now)
        if now - owed.opened >= self._rules.max_age:
            age = f"after {self._rules.max_age.total_seconds():g} s"
            return self._given_up(owed, replace(trouble, cause=f"no attempt succeeded {age}: {attempt.cause}"))
        counts = not attempt.is_outage
        return "failed", lambda current: records.failed(current, trouble, due, counts=counts)

    def _given_up(self, owed: Owed, trouble: Trouble) -> tuple[str, Change]:
        if owed.state == "pending":
            # Not said: the state `ended` follows, and its own attempt may succeed.
            self._report.health.last_error = f"{trouble.code}: {trouble.cause}"
            due = self._now() + self._rules.check
            return "given_up", lambda current: records.parked(current, due, trouble=trouble)
        self._report.given_up(owed, trouble.code, trouble.cause)
        return "given_up", lambda current: records.failed(current, trouble, None)

    # --- the end ---------------------------------------------------------------------------------------------------

    async def drained(self) -> None:
        """Return when no attempt is under way any more."""
        while self._running:
            await asyncio.wait(list(self._running.values()))
            await asyncio.sleep(0)

    def interrupt(self) -> None:
        """Cancel the attempts under way. Their leases end by themselves, so that two attempts never overlap."""
        for task in self._running.values():
            task.cancel()
