"""Which dead letters are meant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flow_contracts.servicebus import DeadLetteredMessage, ServiceBus
from flow_worker.cli.dead_letter_view import Letter
from flow_worker.pipeline.decode import Reader

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Selection:
    """All dead letters of some queues, or those of them that have what is asked for."""

    queues: Mapping[str, Reader]
    """And how their messages are read."""
    ids: frozenset[str] = frozenset()
    """Sequence numbers, message IDs or correlation IDs."""
    reason: str | None = None
    flow: str | None = None

    async def found(self, bus: ServiceBus, shape: Callable[[Letter, DeadLetteredMessage], _T]) -> list[_T]:
        """Each selected dead letter as `shape` returns it, in queue and sequence order. Raises `ServiceBusFailure`.

        Only that is held: bodies may be many and large.
        """
        by_queue = await asyncio.gather(
            *(self._found_in(queue, reader, bus, shape) for queue, reader in self.queues.items())
        )
        return [one for some in by_queue for one in some]

    async def letters(self, bus: ServiceBus) -> list[Letter]:
        """All that are meant. Raises `ServiceBusFailure`."""
        return await self.found(bus, lambda letter, _: letter)

    async def _found_in(
        self, queue: str, reader: Reader, bus: ServiceBus, shape: Callable[[Letter, DeadLetteredMessage], _T]
    ) -> list[_T]:
        async with bus.dead_letter_queue(queue) as dead:
            found = []
            async for one in dead.peek():
                letter = Letter.of(queue, one, reader)
                if self._means(letter):
                    found.append(shape(letter, one))
            return found

    def not_among(self, letters: Iterable[Letter]) -> list[str]:
        """The IDs that none of these has."""
        return sorted(self.ids.difference(*(_ids(letter) for letter in letters)))

    def _means(self, letter: Letter) -> bool:
        return (
            (not self.ids or not self.ids.isdisjoint(_ids(letter)))
            and (self.reason is None or letter.reason.casefold() == self.reason.casefold())
            and (self.flow is None or letter.flow == self.flow)
        )


def by_reason(letters: Iterable[Letter]) -> list[tuple[str, int]]:
    """How many there are of each reason, most first."""
    return Counter(letter.reason for letter in letters).most_common()


def _ids(letter: Letter) -> set[str]:
    return {str(letter.sequence_number), *filter(None, [letter.message_id, letter.correlation_id])}
