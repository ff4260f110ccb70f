"""The journal: what was called and what was concluded, over a store that only compares and swaps."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from flow_contracts.result import FlowError, FlowResult
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import document, entry
from flow_worker.journal.entry import Bid, Busy, Concluded, Conflict, Entry, Rules, Step, Subject, Taken, Waiting
from flow_worker.journal.store import Store, TooLarge
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_MAX_SWAPS = 20
"""Attempts to write what others keep changing. Two workers at one request are many already."""
_PAUSE_SECONDS = 0.25
"""Between attempts to write what must not be lost."""
_PURGE_AT_ONCE = 500
_MAX_PURGED = 100_000
"""In one run; what is left is for the next."""
_RECENT_ENTRIES = 256
_RECENT_BYTES = 64 * 1024
"""Larger documents are read again rather than held."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on a request until the lease ends, and the entry it rests on."""

    entry: Entry = field(repr=False)
    version: str

    @property
    def message_id(self) -> str:
        """The request's."""
        return self.entry.message_id


@dataclass(frozen=True, slots=True)
class Begin:
    """The claim is ours."""

    lease: Lease
    calls: int
    """Calls begun before."""
    interrupted: bool
    """One more may have gone out: who held the claim before never said what became of it."""
    step: Step | None = None
    """What the journal knows is to be done, if a step was agreed before."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The request was begun, and has no result yet."""

    calls: int


Begun = Begin | Concluded | Busy | Waiting | Conflict


class Journal:
    """Every method raises `TemporarilyUnavailable` if the store cannot be had within the deadline."""

    def __init__(self, store: Store, rules: Rules, *, deadline_seconds: float, now: Callable[[], datetime]) -> None:
        self._store = store
        self._rules = rules
        self._deadline = deadline_seconds
        self._now = now
        self._recent = _Recent()
        self._unheard: OrderedDict[str, None] = OrderedDict()

    async def begin(self, subject: Subject, *, duration: timedelta, calls: int, again: bool = False) -> Begun:
        """Claim the request, or learn why not. `calls`: made before, as far as the message itself knows.

        A continuation may know more than the journal, which may have been away when it was made. `again`: the flow may
        be called twice, so that the claim need not outlive a power cut.
        """
        bid = Bid(uuid.uuid4().hex, self._now(), duration, calls)
        try:
            async with self._deadline_kept():
                return await self._begin(subject, bid, again)
        except (TemporarilyUnavailable, asyncio.CancelledError):
            self._forget(bid.token)
            raise

    async def _begin(self, subject: Subject, bid: Bid, again: bool) -> Begun:
        key = key_of(subject.message_id)
        # A request is most often new, and a new entry costs one write and no read.
        current, version = (None, None) if subject.number == 0 else await self._read(key)
        for _ in range(_MAX_SWAPS):
            said = entry.begin(self._without_unheard(current), subject, bid, self._rules)
            if not isinstance(said, Taken):
                return said
            written = await self._write(key, said.entry, version, lasting=not again)
            if written is not None:
                return Begin(Lease(said.entry, written), said.calls, said.interrupted, said.step)
            current, version = await self._read(key)
        raise _contended()

    async def wait(self, lease: Lease, step: Step) -> None:
        """Let go of the claim: the request waits for a continuation. Nothing is done if the claim was lost."""

        def change(current: Entry | None) -> Entry | None:
            return entry.wait(current, lease.entry, step, self._now(), self._rules)

        await self._insisted(lambda: self._change(lease, change))

    async def release(self, lease: Lease) -> None:
        """Give the claim back: nothing was called, or it may be called again. Nothing is done if it was lost."""

        def change(current: Entry | None) -> Entry | None:
            return entry.release(current, lease.entry, self._now(), self._rules)

        async with self._deadline_kept():
            await self._change(lease, change)

    async def conclude(self, lease: Lease, result: FlowResult) -> FlowResult:
        """Store the result, even if the claim was lost. Returns the one that stands: the first that was stored."""

        async def concluded() -> FlowResult:
            try:
                return await self._conclude(lease, result, result)
            except TooLarge:
                return await self._conclude(lease, result, _without_output(result))

        return await self._insisted(concluded)

    async def _conclude(self, lease: Lease, result: FlowResult, kept: FlowResult) -> FlowResult:
        def change(current: Entry | None) -> Entry | None:
            return entry.conclude(current, lease.entry, kept, self._now(), self._rules)

        stands = await self._change(lease, change)
        if stands is None or stands.result is None or stands.result is kept or stands.result == kept:
            return result
        return stands.result

    async def published(self, message_id: str, origin: str) -> None:
        """The reply queue has accepted the result for the message `origin`."""
        key = key_of(message_id)
        async with self._deadline_kept():
            current, version = self._recent.get(key) or await self._read(key)
            for _ in range(_MAX_SWAPS):
                changed = entry.mark_published(current, origin, self._now(), self._rules)
                if changed is None or await self._write(key, changed, version) is not None:
                    return
                current, version = await self._read(key)
        raise _contended()

    async def recall(self, subject: Subject) -> Concluded | Pending | None:
        """Whether this same request was begun or concluded before. None if not, or if it is another's message ID."""
        found = await self.find(subject.message_id)
        if found is None or found.fingerprint != subject.fingerprint:
            return None
        if found.result is not None:
            return Concluded(found.result, published=found.published_for == subject.origin)
        return Pending(found.calls)

    async def find(self, message_id: str) -> Entry | None:
        """The whole entry, for people."""
        async with self._deadline_kept():
            found, _ = await self._read(key_of(message_id))
        return entry.live(found, self._now())

    async def purge(self) -> int:
        """Delete entries past their time; how many there were."""
        purged = 0
        while purged < _MAX_PURGED:
            some = await self._store.purge(self._now(), _PURGE_AT_ONCE)
            purged += some
            if some < _PURGE_AT_ONCE:
                break
        return purged

    # --- the store -----------------------------------------------------------------------------------------------

    async def _change(self, lease: Lease, change: Callable[[Entry | None], Entry | None]) -> Entry | None:
        """Write what `change` makes of the entry; the entry that stands, or None if `change` left it alone."""
        key = key_of(lease.message_id)
        current: Entry | None = lease.entry
        version: str | None = lease.version
        for _ in range(_MAX_SWAPS):
            changed = change(current)
            if changed is None or changed is current or await self._write(key, changed, version) is not None:
                return changed
            current, version = await self._read(key)
        raise _contended()

    async def _read(self, key: str) -> tuple[Entry | None, str | None]:
        stored = await self._store.read(key)
        if stored is None:
            return None, None
        try:
            return document.load(stored.document), stored.version
        except document.Unreadable as error:
            message = f"the journal's entry was not written by a version like this one ({error})"
            raise TemporarilyUnavailable("journal_unavailable", message) from None

    async def _write(self, key: str, changed: Entry, version: str | None, *, lasting: bool = True) -> str | None:
        data = document.dump(changed)
        self._recent.drop(key)
        # After a power cut, a result that was not kept is `unknown`; a call that was not kept would be made again.
        lasting = lasting and changed.state != "concluded"
        written = await self._store.write(key, data, version, changed.expires, lasting=lasting)
        if written is not None and len(data) <= _RECENT_BYTES:
            self._recent.put(key, changed, written)
        return written

    async def _insisted(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """What was called must not be forgotten over one broken connection: tried until the deadline."""
        trouble: TemporarilyUnavailable | None = None
        try:
            async with asyncio.timeout(self._deadline):
                while True:
                    try:
                        return await attempt()
                    except TemporarilyUnavailable as again:
                        trouble = again
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            raise trouble or self._too_late() from None

    @asynccontextmanager
    async def _deadline_kept(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline):
                yield
        except TimeoutError:
            raise self._too_late() from None

    def _too_late(self) -> TemporarilyUnavailable:
        return TemporarilyUnavailable("journal_unavailable", f"the journal did not answer within {self._deadline:g} s")

    # --- claims that may have been written without our hearing of it ---------------------------------------------

    def _forget(self, token: str) -> None:
        self._unheard[token] = None
        if len(self._unheard) > _RECENT_ENTRIES:
            self._unheard.popitem(last=False)

    def _without_unheard(self, current: Entry | None) -> Entry | None:
        """The entry, released if its holder is an attempt of ours that failed: nothing was called under it."""
        if current is None or current.holder is None or current.holder.token not in self._unheard:
            return current
        log(_log, logging.INFO, "journal.lease_recovered", "A claim had been written though the journal seemed away.")
        return entry.release(current, current, self._now(), self._rules)


class _Recent:
    """The entries written last, with their versions: a result that is told need not be read again first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[Entry, str]] = OrderedDict()

    def get(self, key: str) -> tuple[Entry, str] | None:
        return self._entries.get(key)

    def put(self, key: str, one: Entry, version: str) -> None:
        self._entries[key] = (one, version)
        if len(self._entries) > _RECENT_ENTRIES:
            self._entries.popitem(last=False)

    def drop(self, key: str) -> None:
        self._entries.pop(key, None)


def key_of(message_id: str) -> str:
    """The store's key: message IDs may hold anything, keys may not."""
    return hashlib.sha256(message_id.encode()).hexdigest()


def _without_output(result: FlowResult) -> FlowResult:
    message = "The flow's output is larger than the journal keeps; it was told once and dropped."
    error = result.error or FlowError(code="output_too_large", message=message)
    return result.model_copy(update={"output": None, "output_encoding": None, "error": error})


def _contended() -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        "journal_unavailable", f"the journal's entry was changed by others {_MAX_SWAPS} times over"
    )
