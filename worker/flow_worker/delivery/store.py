"""Declares what a store of the outbox must do: keep documents by key, and write them by compare-and-swap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """A document to write, with what the store itself must know of it."""

    key: str
    sink: str
    document: bytes = field(repr=False)
    due: datetime | None
    expires: datetime


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A document that was read. Every write gives it another `version`."""

    key: str
    document: bytes = field(repr=False)
    version: str


class OutboxStore(Protocol):
    """Keeps documents. Every method raises `TemporarilyUnavailable` if the store does not work at the moment.

    A store without the table counts as empty, and the first write creates the table.
    """

    async def read(self, key: str) -> StoredRow | None:
        """Return the document of a key; None if there is none."""
        ...

    async def write(self, row: Row, version: str | None) -> str | None:
        """Write the document in place of `version`, or as a new one if `version` is None.

        Return the new version. Return None, and write nothing, if the stored version is another one. On return the
        document survives the death of the process, but perhaps not a power cut.
        """
        ...

    async def delete(self, key: str, version: str) -> bool:
        """Delete the document if it still has this version. Return False if it has another one."""
        ...

    async def due(self, sink: str, now: datetime, limit: int) -> list[StoredRow]:
        """Return up to `limit` documents of a sink that are due, the earliest first if the store can sort."""
        ...

    async def sinks(self) -> list[str]:
        """Return the names of all sinks that have documents."""
        ...

    def rows(self) -> AsyncIterator[StoredRow]:
        """Yield every document, in no particular order."""
        ...

    async def purge(self, now: datetime, limit: int) -> int:
        """Delete about `limit` documents that have expired. Return their number."""
        ...

    async def close(self) -> None:
        """Release the resources that the journal does not own."""
        ...
