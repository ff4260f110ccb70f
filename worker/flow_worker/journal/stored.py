"""Implements the journal over a store that only reads, and writes by compare-and-swap."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from flow_contracts.result import FlowError, FlowResult
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import document, transitions
from flow_worker.journal.entry import Entry, JobKey, NextStep
from flow_worker.journal.port import Acquired, Acquisition, Concluded, Lease, Pending
from flow_worker.journal.store import DocumentTooLarge, Store
from flow_worker.journal.transitions import Granted, LeaseRequest, RetentionRules
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_MAX_SWAPS = 20
"""Attempts of one compare-and-swap loop. Two workers that change one entry at the same time are already rare."""
_RETRY_PAUSE_SECONDS = 0.25
_PURGE_BATCH = 500
_MAX_PURGED = 100_000
"""Entries deleted by one purge; the next purge deletes the rest."""
_MAX_BESIDE_RESULT_BYTES = 64 * 1024
"""An upper bound of an entry's size without its result. A result near the queue's limit is kept whole."""
_MAX_RECENT_ENTRIES = 256
_MAX_RECENT_BYTES = 64 * 1024
"""Larger documents are not cached; the journal reads them again."""


class _LargerThanReply(DocumentTooLarge):
    """The reply queue cannot take the result with its output, so the journal need not keep the output."""


class StoredJournal:
    """A `Journal` over a compare-and-swap store.

    Every change is a loop: apply a pure transition to the entry, and write the result in place of the version that the
    transition started from. If another worker was faster, start over from the stored entry. So no process holds a lock,
    and a worker that dies in the middle leaves nothing locked.
    """

    def __init__(
        self,
        store: Store,
        rules: RetentionRules,
        *,
        deadline_seconds: float,
        now: Callable[[], datetime],
        reached: Callable[[], datetime] | None = None,
    ) -> None:
        """`reached`: returns a time that has provably come, by which the leases of others are judged; default `now`."""
        self._store = store
        self._rules = rules
        self._deadline = deadline_seconds
        self._now = now
        self._reached = reached or now
        self._recent = _RecentEntries()
        self._unconfirmed_leases: OrderedDict[str, None] = OrderedDict()

    async def acquire(
        self, job: JobKey, *, duration: timedelta, calls: int, repeatable: bool = False, ending: bool = False
    ) -> Acquisition:
        """See `Journal.acquire`."""
        token = uuid.uuid4().hex
        request = LeaseRequest(
            token, self._now(), duration, calls, self._reached(), repeatable=repeatable, ending=ending
        )
        try:
            return await self._until_deadline(self._acquire(job, request, durable=not (repeatable or ending)))
        except (TemporarilyUnavailable, asyncio.CancelledError):
            # The store may have written the lease all the same; see `_without_unconfirmed_lease`.
            self._remember_unconfirmed(request.token)
            raise

    async def _acquire(self, job: JobKey, request: LeaseRequest, *, durable: bool) -> Acquisition:
        key = key_of(job.message_id)
        # Most requests are new. Writing a new entry without reading first saves one round trip. If an entry exists, the
        # write fails and the loop reads it.
        current, version = (None, None) if job.number == 0 else await self._read(key)
        for _ in range(_MAX_SWAPS):
            answer = transitions.acquire(self._without_unconfirmed_lease(current), job, request, self._rules)
            if not isinstance(answer, Granted):
                return answer
            written = await self._write(key, answer.entry, version, durable=durable)
            if written is not None:
                return Acquired(Lease(answer.entry, written), answer.calls, answer.interrupted, answer.step)
            current, version = await self._read(key)
        raise _contended()

    async def schedule(self, lease: Lease, step: NextStep) -> None:
        """See `Journal.schedule`."""

        def change(current: Entry | None) -> Entry | None:
            return transitions.schedule(current, lease.entry, step, self._now(), self._rules)

        await self._retried_until_deadline(lambda: self._change(lease, change))

    async def release(self, lease: Lease, *, calls: int = 0) -> None:
        """See `Journal.release`."""

        def change(current: Entry | None) -> Entry | None:
            return transitions.release(current, lease.entry, self._now(), self._rules, calls=calls)

        # Once, without repetition: a lease that the store cannot release now ends by itself.
        await self._until_deadline(self._change(lease, change))

    async def conclude(self, lease: Lease, result: FlowResult, *, max_bytes: int | None = None) -> FlowResult:
        """See `Journal.conclude`. The journal's copy lacks an output that is too large for the store."""
        limit = None if max_bytes is None else max_bytes + _MAX_BESIDE_RESULT_BYTES
        if max_bytes == 0 and result.output is not None:
            kept = _without_output(result)
            return await self._retried_until_deadline(lambda: self._conclude(lease, result, kept))

        async def conclude_once() -> FlowResult:
            try:
                return await self._conclude(lease, result, result, limit)
            except _LargerThanReply:
                return await self._conclude(lease, result, result.without_output())
            except DocumentTooLarge:
                return await self._conclude(lease, result, _without_output(result))

        return await self._retried_until_deadline(conclude_once)

    async def _conclude(
        self, lease: Lease, result: FlowResult, kept: FlowResult, limit: int | None = None
    ) -> FlowResult:
        """Store `kept`. Return the result to publish: the whole `result`, unless another one was stored first."""

        def change(current: Entry | None) -> Entry | None:
            return transitions.conclude(current, lease.entry, kept, self._now(), self._rules)

        concluded = await self._change(lease, change, limit)
        if concluded is None or concluded.result is None:
            return result
        if concluded.settled is not None:
            return concluded.settled
        if concluded.result is kept:
            return result  # the usual case; it saves two copies
        # The journal may count more calls than the worker. Equality counts too: a repeated attempt finds the result
        # that the failed one had stored.
        attempts = {"attempts": concluded.result.attempts}
        if concluded.result == kept.model_copy(update=attempts):
            return result.model_copy(update=attempts)
        return concluded.result

    async def settle(self, message_id: str, result: FlowResult) -> FlowResult | None:
        """See `Journal.settle`."""

        def change(current: Entry | None) -> Entry | None:
            return transitions.settle(current, result, self._now(), self._rules)

        async def settle_once() -> FlowResult | None:
            key = key_of(message_id)
            settled = await self._swap(key, *await self._read(key), change)
            return None if settled is None else settled.settled

        return await self._retried_until_deadline(settle_once)

    async def mark_published(self, message_id: str, origin: str) -> None:
        """See `Journal.mark_published`."""

        def change(current: Entry | None) -> Entry | None:
            return transitions.mark_published(current, origin, self._now(), self._rules)

        # Repeated: without the mark, a late redelivery publishes the result a second time.
        await self._retried_until_deadline(lambda: self._mark(key_of(message_id), change))

    async def keep_published(self, job: JobKey, result: FlowResult, *, retention: timedelta) -> None:
        """See `Journal.keep_published`."""

        def change(current: Entry | None) -> Entry | None:
            return transitions.keep_published(current, job, result, self._now(), retention)

        # Once, without repetition: a refusal needs no journal, and must not hold its lane during an outage.
        await self._until_deadline(self._mark(key_of(job.message_id), change))

    async def keep_mark(self, key: str, *, note: str = "") -> None:
        """See `Journal.keep_mark`."""
        entry = Entry(key, note, "", "released", 0, self._now() + self._rules.retention)
        await self._until_deadline(self._write(key_of(key), entry, None, durable=False))

    async def _mark(self, key: str, change: Callable[[Entry | None], Entry | None]) -> None:
        current, version = self._recent.get(key) or await self._read(key)
        await self._swap(key, current, version, change)

    async def recall(self, job: JobKey) -> Concluded | Pending | None:
        """See `Journal.recall`."""
        entry = await self.find(job.message_id)
        if entry is None or entry.fingerprint != job.fingerprint:
            return None
        if entry.standing is not None:
            return Concluded(entry.standing, published=entry.published_for == job.origin)
        return Pending(entry.calls)

    async def find(self, message_id: str) -> Entry | None:
        """See `Journal.find`."""
        entry, _ = await self._until_deadline(self._read(key_of(message_id)))
        return transitions.live(entry, self._now())

    async def purge(self) -> int:
        """See `Journal.purge`. Deletes in batches; the store bounds the time of each."""
        purged = 0
        while purged < _MAX_PURGED:
            batch = await self._store.purge(self._reached(), _PURGE_BATCH)
            purged += batch
            if batch < _PURGE_BATCH:
                break
        return purged

    # --- the store -----------------------------------------------------------------------------------------------

    async def _change(
        self, lease: Lease, change: Callable[[Entry | None], Entry | None], limit: int | None = None
    ) -> Entry | None:
        """Apply `change` to the entry of the lease, and return the entry that stands; None if `change` refused.

        This starts with the entry of the lease instead of a read: normally no other worker changed it since.
        """
        return await self._swap(key_of(lease.message_id), lease.entry, lease.version, change, limit)

    async def _swap(
        self,
        key: str,
        current: Entry | None,
        version: str | None,
        change: Callable[[Entry | None], Entry | None],
        limit: int | None = None,
    ) -> Entry | None:
        """Apply `change` to the entry, first to `current`, until a write succeeds.

        Return the entry that stands, or None if `change` refused.
        """
        for _ in range(_MAX_SWAPS):
            changed = change(current)
            if changed is None or changed is current:
                return changed
            if await self._write(key, changed, version, limit=limit) is not None:
                return changed
            current, version = await self._read(key)
        raise _contended()

    async def _read(self, key: str) -> tuple[Entry | None, str | None]:
        stored = await self._store.read(key)
        if stored is None:
            return None, None
        try:
            return document.load(stored.document), stored.version
        except document.UnreadableEntry as error:
            message = f"this version of the worker cannot read the journal's entry (field '{error}')"
            raise TemporarilyUnavailable("journal_unavailable", message) from None

    async def _write(
        self, key: str, changed: Entry, version: str | None, *, durable: bool = True, limit: int | None = None
    ) -> str | None:
        data = document.dump(changed)
        if limit is not None and len(data) > limit:
            raise _LargerThanReply
        # Drop the entry before the write, and put it back only after a success. The store may have applied a write that
        # failed here, and a stale entry in the cache would lose its next compare-and-swap.
        self._recent.drop(key)
        # A result need not wait for the disk (fsync). If a power cut loses it, its lease is still on the disk, and the
        # request ends as `unknown`. If a power cut lost the lease instead, a worker would call the flow a second time.
        durable = durable and changed.state != "concluded"
        written = await self._store.write(key, data, version, changed.expires, durable=durable)
        if written is not None and len(data) <= _MAX_RECENT_BYTES:
            self._recent.put(key, changed, written)
        return written

    async def _retried_until_deadline(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat the attempt until the deadline: one broken connection must not lose the outcome of a call."""
        failure: TemporarilyUnavailable | None = None
        try:
            async with asyncio.timeout(self._deadline):
                while True:
                    try:
                        return await attempt()
                    except TemporarilyUnavailable as error:
                        failure = error
                    await asyncio.sleep(_RETRY_PAUSE_SECONDS)
        except TimeoutError:
            raise failure or self._no_answer() from None

    async def _until_deadline(self, attempt: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._deadline):
                return await attempt
        except TimeoutError:
            raise self._no_answer() from None

    def _no_answer(self) -> TemporarilyUnavailable:
        return TemporarilyUnavailable("journal_unavailable", f"the journal did not answer within {self._deadline:g} s")

    # --- leases whose write failed or was cut off ----------------------------------------------------------------

    def _remember_unconfirmed(self, token: str) -> None:
        self._unconfirmed_leases[token] = None
        if len(self._unconfirmed_leases) > _MAX_RECENT_ENTRIES:
            self._unconfirmed_leases.popitem(last=False)

    def _without_unconfirmed_lease(self, current: Entry | None) -> Entry | None:
        """Return the entry, released if an unconfirmed attempt of this process holds it.

        The store may have written a lease although the attempt failed: the answer was lost, or the deadline passed.
        That attempt made no call, so its lease protects nothing. Left in place, the lease would block the request until
        its end. It would then count as a call whose answer was lost.
        """
        if current is None or current.holder is None or current.holder.token not in self._unconfirmed_leases:
            return current
        log(
            _log,
            logging.INFO,
            "journal.lease_recovered",
            "The worker releases its own lease: the journal wrote it, but did not confirm it in time.",
        )
        return transitions.release(current, current, self._now(), self._rules)


class _RecentEntries:
    """Caches the latest written entries with their versions, so that `mark_published` needs no read."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[Entry, str]] = OrderedDict()

    def get(self, key: str) -> tuple[Entry, str] | None:
        return self._entries.get(key)

    def put(self, key: str, entry: Entry, version: str) -> None:
        self._entries[key] = (entry, version)
        if len(self._entries) > _MAX_RECENT_ENTRIES:
            self._entries.popitem(last=False)

    def drop(self, key: str) -> None:
        self._entries.pop(key, None)


def key_of(message_id: str) -> str:
    """Return the store's key: a message ID may hold any characters, a key may not."""
    return hashlib.sha256(message_id.encode()).hexdigest()


def _without_output(result: FlowResult) -> FlowResult:
    message = (
        "The flow's output is larger than the journal keeps. It was published once; a repetition of this result "
        "comes without it."
    )
    error = result.error or FlowError(code="output_too_large", message=message)
    return result.model_copy(update={"output": None, "output_encoding": None, "error": error})


def _contended() -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        "journal_unavailable", f"other workers changed the journal's entry {_MAX_SWAPS} times in a row"
    )
