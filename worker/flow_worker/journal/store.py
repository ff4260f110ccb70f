"""Declares what a journal backend must do: keep documents by key, and write them by compare-and-swap."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from flow_worker.errors import TemporarilyUnavailable

PROBE_KEY = hashlib.sha256(b"flow-worker journal probe").hexdigest()
"""The key of the document that `Store.probe` writes."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document that was read. Every write gives it another `version`."""

    document: bytes = field(repr=False)
    version: str


class DocumentTooLarge(Exception):
    """The store does not take a document of this size."""


class StoreReplaced(TemporarilyUnavailable):
    """The store that the worker opened is gone: deleted, renamed or replaced. Only a restart of the worker helps.

    A worker that wrote on would keep its leases where no other worker finds them.
    """


class Listing(Protocol):
    """Yields all documents of a store, for a command that searches them. It holds up no worker that writes."""

    def documents(self) -> AsyncIterator[bytes]:
        """Yield every document, in no particular order. Raises `TemporarilyUnavailable`."""
        ...


class Store(Protocol):
    """Keeps documents. Every method raises `TemporarilyUnavailable` if the store does not work at the moment."""

    async def read(self, key: str) -> StoredDocument | None:
        """Return the document of a key of hex digits; None if there is none."""
        ...

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        """Write `document` in place of `version`, or as a new document if `version` is None.

        Return the new version. Return None, and write nothing, if the stored version is another one.
        On return the document survives the death of the process. With `durable` it also survives a power cut, and the
        write may take longer. Raises `DocumentTooLarge`.
        """
        ...

    async def probe(self, expires: datetime) -> None:
        """Write a small document of the store's own, so that an idle worker learns if the store takes new entries."""
        ...

    async def purge(self, now: datetime, limit: int) -> int:
        """Delete about `limit` documents that have expired. Return their number."""
        ...

    async def close(self) -> None:
        """Finish the operations under way and release all resources."""
        ...
