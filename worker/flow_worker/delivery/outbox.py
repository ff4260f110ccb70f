"""The outbox: what the sinks still have to get, over a store that writes by compare-and-swap."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from flow_worker.delivery import owed as records
from flow_worker.delivery.owed import Owed, UnreadableRecord
from flow_worker.delivery.store import OutboxStore, Row, StoredRow
from flow_worker.errors import TemporarilyUnavailable

_T = TypeVar("_T")
_MAX_SWAPS = 20
_MAX_RECENT = 2048
_PURGE_BATCH = 50
"""So few that the log of a small SQLite journal holds them."""
_MAX_PURGED = 100_000


@dataclass(frozen=True, slots=True)
class Held:
    """A record and the store's version of it."""

    owed: Owed
    version: str


class DeliveryOutbox:
    """Opens, leases and ends deliveries. Every method raises `TemporarilyUnavailable` if the store does not work."""

    def __init__(
        self,
        store: OutboxStore,
        *,
        retention: timedelta,
        deadline_seconds: float,
        now: Callable[[], datetime],
        reached: Callable[[], datetime] | None = None,
    ) -> None:
        """`reached`: returns a time that has provably come, by which the leases of others are judged; default `now`."""
        self._store = store
        self._deadline = deadline_seconds
        self._now = now
        self._reached = reached or now
        self._recent: OrderedDict[str, Held] = OrderedDict()
        self.retention = retention

    async def open(self, new: Sequence[Owed]) -> list[Held]:
        """Open deliveries, each at most once, and return those of which the sink learns something new."""
        if len(new) == 1:
            held = [await self._within_deadline(self._open(new[0]))]
        else:
            held = await self._within_deadline(asyncio.gather(*map(self._open, new)))
        return [each for each in held if each is not None]

    async def _open(self, new: Owed) -> Held | None:
        key = new.key
        # Without a read first: most records are new, or this process wrote them last.
        current = self._recent.get(key)
        is_certain = False
        for _ in range(_MAX_SWAPS):
            changed = new if current is None else records.opened(current.owed, new)
            if current is None or changed is not current.owed:
                written = await self._write(key, changed, None if current is None else current.version)
                if written is not None:
                    return written
            elif is_certain:
                return None
            current, is_certain = await self._read(key), True
        raise _contended()

    async def lease(self, held: Held, duration: timedelta) -> Held | None:
        """Take the right to attempt a delivery; None if it is not due any more, or another runner has it."""
        return await self._within_deadline(self._lease(held, duration))

    async def _lease(self, held: Held, duration: timedelta) -> Held | None:
        key, token = held.owed.key, uuid.uuid4().hex
        current: Held | None = held
        for _ in range(_MAX_SWAPS):
            if current is None:
                return None
            changed = records.leased(current.owed, token, duration, self._now(), self._reached())
            if changed is None:
                return None
            written = await self._write(key, changed, current.version)
            if written is not None:
                return written
            current = await self._read(key)
        raise _contended()

    async def end(self, held: Held, change: Callable[[Owed], Owed | None]) -> Held | None:
        """End the attempt under the lease of `held`: `change` returns the record after it, or None to delete it.

        If the request got another state meanwhile, the attempt does not count. Return the record that stands, if there
        is one and this runner held its lease to the end.
        """
        return await self._within_deadline(self._end(held, change))

    async def _end(self, held: Held, change: Callable[[Owed], Owed | None]) -> Held | None:
        key = held.owed.key
        current: Held | None = held
        for _ in range(_MAX_SWAPS):
            if current is None or current.owed.lease != held.owed.lease:
                return None
            is_same = current.owed.generation == held.owed.generation
            changed = change(current.owed) if is_same else current.owed
            if changed is None:
                if await self._delete(key, current.version):
                    return None
            elif (written := await self._write(key, records.released(changed), current.version)) is not None:
                return written
            current = await self._read(key)
        raise _contended()

    async def defer(self, held: Held, until: datetime) -> None:
        """Put a delivery off that cannot be attempted before `until`. Do nothing if it has changed meanwhile."""
        await self._within_deadline(self._write(held.owed.key, replace(held.owed, due=until), held.version))

    async def due(self, sink: str, limit: int) -> list[Held]:
        """Return deliveries of a sink that are due."""
        rows = await self._within_deadline(self._store.due(sink, self._now(), limit))
        return [held for row in rows if (held := _loaded(row)) is not None]

    async def sinks(self) -> list[str]:
        """Return the names of the sinks that still have to get something."""
        return await self._within_deadline(self._store.sinks())

    async def find(self, key: str) -> Owed | None:
        """Return the record of a key; None if there is none."""
        held = await self._within_deadline(self._read(key))
        return None if held is None else held.owed

    async def supersede(self, key: str, message_id: str) -> None:
        """Note in the record of this request, if there is one, that a replay has followed."""
        await self._within_deadline(self._supersede(key, message_id))

    async def _supersede(self, key: str, message_id: str) -> None:
        for _ in range(_MAX_SWAPS):
            current = await self._read(key)
            if current is None or current.owed.message_id != message_id or current.owed.is_replayed:
                return
            changed = replace(current.owed, is_replayed=True)
            if await self._write(key, changed, current.version) is not None:
                return
        raise _contended()

    async def all(self) -> AsyncIterator[Owed]:
        """Yield all records that have not expired, in no particular order."""
        async for row in self._store.rows():
            held = _loaded(row)
            if held is not None and held.owed.expires > self._now():
                yield held.owed

    async def retry(self, key: str) -> bool:
        """Make a delivery due at once, as a person asks for it. Return False if it is not there any more."""
        return await self._within_deadline(self._retry(key))

    async def _retry(self, key: str) -> bool:
        for _ in range(_MAX_SWAPS):
            current = await self._read(key)
            if current is None:
                return False
            changed = records.retried(current.owed, self._now(), self.retention)
            if await self._write(key, changed, current.version) is not None:
                return True
        raise _contended()

    async def purge(self) -> int:
        """Delete expired records. Return their number. The store bounds the time of each batch."""
        purged = 0
        while purged < _MAX_PURGED:
            batch = await self._store.purge(self._reached(), _PURGE_BATCH)
            purged += batch
            if batch < _PURGE_BATCH:
                break
        return purged

    async def close(self) -> None:
        """Release the store."""
        await self._store.close()

    # --- the store -----------------------------------------------------------------------------------------------

    async def _read(self, key: str) -> Held | None:
        row = await self._store.read(key)
        if row is None:
            return None
        held = _loaded(row)
        if held is None:
            message = "this version of the worker cannot read the delivery, which a later version wrote"
            raise TemporarilyUnavailable("journal_unavailable", message)
        return held

    async def _write(self, key: str, owed: Owed, version: str | None) -> Held | None:
        self._recent.pop(key, None)  # before the write, which may take effect although it fails here
        row = Row(key, owed.sink, records.dump(owed), owed.next_look, owed.expires)
        written = await self._store.write(row, version)
        if written is None:
            return None
        held = self._recent[key] = Held(owed, written)
        if len(self._recent) > _MAX_RECENT:
            self._recent.popitem(last=False)
        return held

    async def _delete(self, key: str, version: str) -> bool:
        self._recent.pop(key, None)
        return await self._store.delete(key, version)

    async def _within_deadline(self, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._deadline):
                return await work
        except TimeoutError:
            sentence = f"the outbox did not answer within {self._deadline:g} s"
            raise TemporarilyUnavailable("journal_unavailable", sentence) from None


def _loaded(row: StoredRow) -> Held | None:
    """Return the record of a row; None if a later version of the worker wrote it, which then delivers it."""
    try:
        return Held(records.load(row.document), row.version)
    except UnreadableRecord:
        return None


def _contended() -> TemporarilyUnavailable:
    return TemporarilyUnavailable("journal_unavailable", "other workers change the same delivery all the time")
