"""Which dead letters are meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from worker.people.letter import Letter
from worker.servicebus import DeadLettered, ServiceBus


@dataclass(frozen=True, slots=True)
class Selection:
    """All dead letters of some queues, or those of them that have what is asked for."""

    queues: Sequence[str]
    continuations: str
    """Name of the continuation queue."""
    ids: frozenset[str] = frozenset()
    """Sequence numbers or message IDs."""
    reason: str | None = None
    flow: str | None = None

    async def found(self, bus: ServiceBus) -> AsyncIterator[tuple[Letter, DeadLettered]]:
        """Each one that is meant, in the order of the queues and of their sequence. Raises `BusTrouble`."""
        for queue in self.queues:
            async with bus.dead_letter_queue(queue) as dead:
                async for one in dead.peek():
                    letter = Letter.of(queue, one, continuations=self.continuations)
                    if self._means(letter):
                        yield letter, one

    async def letters(self, bus: ServiceBus) -> list[Letter]:
        """The same, without their bodies. Raises `BusTrouble`."""
        return [letter async for letter, _ in self.found(bus)]

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
    return {str(letter.sequence_number), *filter(None, [letter.message_id])}
