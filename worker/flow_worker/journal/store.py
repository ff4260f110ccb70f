"""Where the journal keeps its documents: all that a backend must do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it was read. `version` changes with every write."""

    document: bytes = field(repr=False)
    version: str


class TooLarge(Exception):
    """The store does not take a document of this size."""


class Store(Protocol):
    """Reads, and writes by compare-and-swap. Every method raises `TemporarilyUnavailable` if the store is away."""

    async def read(self, key: str) -> Stored | None:
        """None if there is no such document. `key` is of hex digits."""
        ...

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, lasting: bool = True
    ) -> str | None:
        """Put `document` in the place of `version` (None: of nothing); on return it outlives the process.

        `lasting`: it outlives a power cut too, which may cost more.

        Returns its own version, or None if the place was not as expected: nothing is written then. Raises `TooLarge`.
        """
        ...

    async def purge(self, now: datetime, most: int) -> int:
        """Delete documents that have expired, but not more than `most`; how many there were."""
        ...

    async def close(self) -> None:
        """Finish what is under way and let go of everything."""
        ...
