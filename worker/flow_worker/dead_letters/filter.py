"""Selects dead letters by queue, ID, reason and flow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flow_contracts.servicebus import DeadLetteredMessage, ServiceBus
from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.pipeline.decode import Reader

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Matches the dead letters of some queues that meet every criterion given."""

    queues: Mapping[str, Reader]
    """The queues, each with the decoder of its messages."""
    ids: frozenset[str] = frozenset()
    """Sequence numbers, message IDs or correlation IDs; an empty set matches all."""
    reason: str | None = None
    flow: str | None = None

    async def select(self, bus: ServiceBus, shape: Callable[[DeadLetterView, DeadLetteredMessage], _T]) -> list[_T]:
        """Return `shape` of each match, in the order of queue and sequence number. Raise `ServiceBusFailure`.

        `shape` sees the whole message. Only what it returns stays in memory: bodies may be many and large.
        """
        by_queue = await asyncio.gather(
            *(self._select_in(queue, reader, bus, shape) for queue, reader in self.queues.items())
        )
        return [item for items in by_queue for item in items]

    async def views(self, bus: ServiceBus) -> list[DeadLetterView]:
        """Return the view of each match. Raise `ServiceBusFailure`."""
        return await self.select(bus, lambda view, _: view)

    async def _select_in(
        self, queue: str, reader: Reader, bus: ServiceBus, shape: Callable[[DeadLetterView, DeadLetteredMessage], _T]
    ) -> list[_T]:
        async with bus.dead_letter_queue(queue) as dead_letter_queue:
            items = []
            async for message in dead_letter_queue.peek():
                view = DeadLetterView.of(queue, message, reader)
                if self._matches(view):
                    items.append(shape(view, message))
            return items

    def unmatched_ids(self, views: Iterable[DeadLetterView]) -> list[str]:
        """Return the filter's IDs that no view has."""
        return sorted(self.ids.difference(*(_ids(view) for view in views)))

    def _matches(self, view: DeadLetterView) -> bool:
        return (
            (not self.ids or not self.ids.isdisjoint(_ids(view)))
            and (self.reason is None or view.reason.casefold() == self.reason.casefold())
            and (self.flow is None or view.flow == self.flow)
        )


def count_by_reason(views: Iterable[DeadLetterView]) -> list[tuple[str, int]]:
    """Return each reason with the number of its dead letters, most frequent first."""
    return Counter(view.reason for view in views).most_common()


def _ids(view: DeadLetterView) -> set[str]:
    return {str(view.sequence_number), *filter(None, [view.message_id, view.correlation_id, view.request_message_id])}
